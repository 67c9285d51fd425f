# SPDX-License-Identifier: Apache-2.0
"""Files in and out: limits, defaults, and the idle time that a transfer restarts."""

from collections.abc import AsyncGenerator, Awaitable

import pytest
from tests.service.world import OWNER, World, world

from waggle.domain.errors import (
    FileNotFound,
    FileRefused,
    GuestLost,
    InvalidArgument,
    NotFound,
    TooLarge,
    WaggleError,
)
from waggle.domain.files import MAX_FILE_BYTES, FileSlice
from waggle.domain.files.search import SearchQuery
from waggle.domain.programs import HOME
from waggle.service.files import FilesystemService

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world() as made:
        yield made


@pytest.fixture
def files(here: World) -> FilesystemService:
    return FilesystemService(here.service)


async def test_a_written_file_is_read_back(here: World, files: FilesystemService) -> None:
    environment = await here.created()
    target = await files.write(environment.id, "a/b.bin", b"\0\xff", owner=OWNER)
    assert target == f"{HOME}/a/b.bin"
    assert here.host.only.files[target].mode == 0o644
    whole = FileSlice(b"\0\xff", 2)
    assert await files.read(environment.id, "a/b.bin", owner=OWNER) == (target, whole)


async def test_a_partial_read_reports_the_file_size(here: World, files: FilesystemService) -> None:
    environment = await here.created()
    await files.write(environment.id, "x", b"0123456789", owner=OWNER)
    _, part = await files.read(environment.id, "x", owner=OWNER, offset=3, length=4)
    assert part == FileSlice(b"3456", 10)


async def test_a_tilde_is_the_users_home_in_every_call(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    here.host.only.user_home = "/home/node"
    target = await files.write(environment.id, "~/a.txt", b"old", owner=OWNER)
    assert target == "/home/node/a.txt"
    assert (await files.read(environment.id, "~/a.txt", owner=OWNER))[0] == target
    assert (await files.edit(environment.id, "~/a.txt", "old", "new", owner=OWNER))[0] == target
    assert (await files.list(environment.id, "~", owner=OWNER)).path == "/home/node"
    for name in ("a.txt", "~/a.t*", "/home/node/*.txt"):
        found = await files.search(environment.id, SearchQuery(path="~", name=name), owner=OWNER)
        assert [match.path for match in found.matches] == [target], name
    assert here.host.only.files[target].data == b"new"


async def test_the_mode_is_octal(here: World, files: FilesystemService) -> None:
    environment = await here.created()
    await files.write(environment.id, "/tmp/run", b"", owner=OWNER, mode="0755")
    assert here.host.only.files["/tmp/run"].mode == 0o755
    await files.write(environment.id, "/tmp/run", b"", owner=OWNER, mode=600)
    assert here.host.only.files["/tmp/run"].mode == 0o600


async def test_a_list_without_a_path_shows_the_home_directory(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    await files.write(environment.id, "x", b"1", owner=OWNER)
    listing = await files.list(environment.id, None, owner=OWNER)
    assert (listing.path, [entry.name for entry in listing.entries]) == (HOME, ["x"])
    assert (await files.list(environment.id, "/", owner=OWNER)).path == "/"


async def test_ten_mebibytes_pass_and_one_byte_more_does_not(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    await files.write(environment.id, "big", b"x" * MAX_FILE_BYTES, owner=OWNER)
    _, whole = await files.read(environment.id, "big", owner=OWNER)
    assert len(whole.data) == whole.size == MAX_FILE_BYTES
    with pytest.raises(TooLarge):
        await files.write(environment.id, "big", b"x" * (MAX_FILE_BYTES + 1), owner=OWNER)
    assert len(here.host.only.files[f"{HOME}/big"].data) == MAX_FILE_BYTES
    here.host.only.files[f"{HOME}/big"].data += b"x"  # it grew inside the guest
    with pytest.raises(TooLarge):
        await files.read(environment.id, "big", owner=OWNER)


@pytest.mark.parametrize(
    "path, mode, error",
    [
        ("", None, InvalidArgument),
        ("a\0b", None, InvalidArgument),
        ("\ud800", None, InvalidArgument),
        ("x" * 5_000, None, InvalidArgument),
        ("ok", "rwx", InvalidArgument),
        ("ok", "", InvalidArgument),
    ],
)
async def test_a_bad_argument_never_reaches_the_guest(
    here: World, files: FilesystemService, path: str, mode: str | None, error: type[WaggleError]
) -> None:
    environment = await here.created()
    with pytest.raises(error):
        await files.write(environment.id, path, b"", owner=OWNER, mode=mode)
    assert here.host.only.files == {}


async def test_a_refusal_of_the_guest_is_passed_on_and_ends_the_call(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    with pytest.raises(FileNotFound):
        await files.read(environment.id, "missing", owner=OWNER)
    assert here.get(environment.id).active_calls == 0


async def test_a_transfer_restarts_the_idle_time(here: World, files: FilesystemService) -> None:
    environment = await here.created()
    for call in (
        lambda: files.write(environment.id, "x", b"", owner=OWNER),
        lambda: files.read(environment.id, "x", owner=OWNER),
        lambda: files.list(environment.id, None, owner=OWNER),
    ):
        here.clock.advance(minutes=1)
        await call()
        assert here.get(environment.id).last_used_at == here.clock.now


async def test_files_of_another_owner_are_not_found(here: World, files: FilesystemService) -> None:
    environment = await here.created()
    for call in (
        lambda: files.write(environment.id, "x", b"", owner="mallory"),
        lambda: files.read(environment.id, "x", owner="mallory"),
        lambda: files.list(environment.id, None, owner="mallory"),
    ):
        with pytest.raises(NotFound):
            await call()
    assert here.host.only.files == {}


async def test_a_missing_path_is_reported_with_similar_names(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    await files.write(environment.id, "src/main.py", b"x", owner=OWNER)
    await files.write(environment.id, "data.csv", b"x", owner=OWNER)
    this = environment.id

    def calls(path: str) -> dict[str, Awaitable[object]]:
        query = SearchQuery(path=path, content="x")
        return {
            "read": files.read(this, path, owner=OWNER),
            "list": files.list(this, path, owner=OWNER),
            "edit": files.edit(this, path, "a", "b", owner=OWNER),
            "search": files.search(this, query, owner=OWNER),
        }

    home = f"{HOME} has data.csv, src/."
    for path, words in {
        "nope/deep/a.txt": home,
        "Data.csv": f"Did you mean {HOME}/data.csv? {home}",
        "src/mian.py": f"Did you mean {HOME}/src/main.py? {HOME}/src has main.py.",
        "/mnt/data/data.csv": f"Did you mean {HOME}/data.csv? {home}",
    }.items():
        for name, call in calls(path).items():
            with pytest.raises(FileNotFound) as missing:
                await call
            assert missing.value.message.endswith(f". {words}"), name
            assert not missing.value.hint


async def test_a_file_used_as_a_directory_is_reported(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    await files.write(environment.id, "a", b"x", owner=OWNER)
    here.host.only.listing_error = FileRefused(f"{HOME}/a is not a directory.")
    with pytest.raises(FileNotFound, match=f"{HOME}/a is not a directory"):
        await files.read(environment.id, "a/b", owner=OWNER)


async def test_a_failed_listing_leaves_the_default_hint(
    here: World, files: FilesystemService
) -> None:
    environment = await here.created()
    here.host.only.listing_error = GuestLost("It went.")
    with pytest.raises(FileNotFound) as missing:
        await files.read(environment.id, "a", owner=OWNER)
    assert missing.value.hint == FileNotFound.default_hint
