# SPDX-License-Identifier: Apache-2.0
"""Files of a real machine are watched, whoever changes them, and copies have no watch left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.support.in_turn import frozen_of
from tests.support.vm import Lab, environment, freezing_of, lines, root, sh

from waggle.domain.errors import FileNotFound, FileRefused
from waggle.domain.files.guest_files import Names
from waggle.domain.host import no_progress
from waggle.service.local.guest import LocalGuest
from waggle.tasks import end

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
HOME = "/home/sandbox"
SECONDS = 60.0
RUNNING = "/.waggle/bin/busybox pgrep -f '^/.waggle/bin/files watch' | /.waggle/bin/busybox wc -l"


class Heard:
    """What was notified of: all names, and how often anything may have changed."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.anything = 0
        self.more = asyncio.Event()

    def __call__(self, names: Names) -> None:
        self.names |= names
        self.anything += not names
        self.more.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not enough():
                self.more.clear()
                await self.more.wait()


@asynccontextmanager
async def watching(
    guest: LocalGuest, path: str
) -> AsyncGenerator[tuple[Heard, asyncio.Future[None]]]:
    heard = Heard()
    watch = asyncio.ensure_future(guest.watch(path, heard))
    try:
        waiting = asyncio.ensure_future(heard.until(lambda: heard.anything > 0))
        await asyncio.wait({watch, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
        await waiting
        yield heard, watch
    finally:
        await end(watch)


async def none_left(guest: LocalGuest) -> None:
    """Wait until no watch runs in the guest."""
    with anyio.fail_after(SECONDS):
        while (await root(guest, RUNNING)).strip() != "0":
            pass


async def test_changes_of_programs_of_root_and_of_the_server_are_named(guest: LocalGuest) -> None:
    await root(guest, f"rm -rf {HOME}/app")
    lines(await guest.run(sh("mkdir -p app/src/.git", cwd=HOME)))
    async with watching(guest, f"{HOME}/app") as (heard, _):
        lines(await guest.run(sh("echo 1 > src/a; echo 1 > src/.git/index", cwd=f"{HOME}/app")))
        await heard.until(lambda: "src/a" in heard.names)
        await root(guest, f"mkdir -p {HOME}/app/new/deep")
        await heard.until(lambda: "new" in heard.names)
        await guest.write_file(f"{HOME}/app/b", b"1")
        await heard.until(lambda: "b" in heard.names)
        await root(guest, f"touch {HOME}/app/new/deep/x")
        await heard.until(lambda: "new/deep/x" in heard.names)
        assert not any(".git/" in name for name in heard.names)
        assert (await guest.left_running()).count == 0
    await none_left(guest)


async def test_a_written_file_is_watched_through_its_replacement(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/file", b"1")
    async with watching(guest, f"{HOME}/file") as (heard, _):
        for content in (b"2", b"3"):
            heard.names.clear()
            await guest.write_file(f"{HOME}/file", content)
            await heard.until(lambda: heard.names == {"file"})


async def test_the_watch_ends_when_its_directory_is_gone(guest: LocalGuest) -> None:
    lines(await guest.run(sh("mkdir -p gone", cwd=HOME)))
    async with watching(guest, f"{HOME}/gone") as (heard, watch):
        lines(await guest.run(sh("rmdir gone", cwd=HOME)))
        async with asyncio.timeout(SECONDS):
            await watch
        assert heard.anything == 2


async def test_what_the_user_may_not_read_or_is_missing_is_refused(guest: LocalGuest) -> None:
    await root(
        guest, f"mkdir -p {HOME}/secret && chown 0:0 {HOME}/secret && chmod 700 {HOME}/secret"
    )
    with pytest.raises(FileRefused, match="Permission denied"):
        await guest.watch(f"{HOME}/secret", Heard())
    with pytest.raises(FileNotFound):
        await guest.watch(f"{HOME}/missing", Heard())


async def test_a_pause_ends_a_watch_on_both_sides(lab: Lab) -> None:
    guest = lab.adopt(await lab.host().create(environment(), no_progress))
    async with watching(guest, "/tmp") as (heard, watch):
        await guest.pause()
        async with asyncio.timeout(SECONDS):
            await watch
        assert heard.anything == 1
    await guest.unpause()
    await none_left(guest)
    async with watching(guest, "/tmp") as (heard, _):
        lines(await guest.run(sh("touch /tmp/x")))
        await heard.until(lambda: "x" in heard.names)


async def test_a_watch_goes_on_in_the_origin_of_a_copy_and_ends_in_the_copy(lab: Lab) -> None:
    freezing_of(lab)
    host = lab.host()
    origin = lab.adopt(await host.create(environment(), no_progress))
    async with watching(origin, "/tmp") as (heard, watch):
        async with frozen_of(origin) as frozen:
            copy = lab.adopt(await host.create(environment(), no_progress, frozen))
        await none_left(copy)
        assert (await copy.left_running()).count == 0
        assert not watch.done()
        lines(await origin.run(sh("touch /tmp/x")))
        await heard.until(lambda: "x" in heard.names)
