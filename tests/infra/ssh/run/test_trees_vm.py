# SPDX-License-Identifier: Apache-2.0
"""Trees of a real machine are searched, packed and unpacked, whatever the guest put there."""

from __future__ import annotations

import io
import sys
import tarfile
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from tests.support.vm import lines, root, sh

from waggle.domain.errors import FileNotFound, FileRefused, GuestLost, InvalidArgument
from waggle.domain.files.search import Kind, Match, Searched, SearchQuery
from waggle.domain.files.tree import Skipped, TreeEntry, decode, encode
from waggle.domain.programs import Output
from waggle.infra.archive.trees import read_archive, write_archive
from waggle.service.files.trees import batches
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
HOME = "/home/sandbox"


@pytest.fixture(autouse=True)
async def clean_home(leaks: object, guest: LocalGuest) -> AsyncGenerator[None]:
    """Give every test an empty home directory, and empty it afterwards."""
    await root(guest, f"cd {HOME} && rm -rf ..?* .[!.]* *; true")
    yield
    await root(guest, f"cd {HOME} && rm -rf ..?* .[!.]* *; true")


async def make(guest: LocalGuest, script: str) -> None:
    lines(await guest.run(sh(script, cwd=HOME)))


def query(**changes: object) -> SearchQuery:
    plain = SearchQuery(path=HOME, name="*", exclude=())
    return replace(plain, **{"name": None, **changes})  # pyright: ignore[reportArgumentType] # the names of its fields


def names(found: Searched) -> list[str]:
    return [match.path.removeprefix(f"{HOME}/") for match in found.matches]


class Everything:
    """A stream that keeps everything."""

    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> None:
        self.data += data

    def output(self) -> Output:
        return Output(self.data)


async def pack(
    guest: LocalGuest, path: str, exclude: tuple[str, ...] = ()
) -> list[TreeEntry | Skipped]:
    into = Everything()
    await guest.pack_tree(path, exclude, into)
    return list(decode(lambda at, size: into.data[at : at + size], len(into.data)))


async def test_names_are_found_by_globs(guest: LocalGuest) -> None:
    await make(guest, "mkdir -p src/deep .git; touch a.py src/b.py src/deep/c.py .git/d.py e.txt")
    every = await guest.search(query(name="*.py"))
    assert names(every) == [".git/d.py", "a.py", "src/b.py", "src/deep/c.py"]
    assert every.stopped == ""
    assert names(await guest.search(query(name="*.py", exclude=(".git",)))) == names(every)[1:]
    assert names(await guest.search(query(name="src/*.py"))) == ["src/b.py"]
    assert names(await guest.search(query(name="src/**/*.py"))) == ["src/b.py", "src/deep/c.py"]
    assert names(await guest.search(query(name="{a,e}.*"))) == ["a.py", "e.txt"]
    assert names(await guest.search(query(name="E.TXT", ignore_case=True))) == ["e.txt"]
    assert (await guest.search(query(name="deep"))).matches[0].kind is Kind.DIRECTORY


async def test_lines_are_found_with_their_positions_and_context(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/a", b"one\r\ntwo [x]\r\nthree two\n", 0o644)
    found = await guest.search(query(content="two", context_lines=1))
    assert found.matches == (
        Match(f"{HOME}/a", Kind.FILE, None, 2, 1, "two [x]", ("one",), ("three two",)),
        Match(f"{HOME}/a", Kind.FILE, None, 3, 7, "three two", ("two [x]",), ()),
    )
    assert (await guest.search(query(content="[x]"))).matches[0].column == 5
    assert len((await guest.search(query(content="TWO"))).matches) == 0
    assert len((await guest.search(query(content="TWO", ignore_case=True))).matches) == 2
    by_expression = query(content=r"^\w+ two$|\bo.e\b", regex=True)
    assert [match.line for match in (await guest.search(by_expression)).matches] == [1, 3]
    assert [
        m.path for m in (await guest.search(query(path=f"{HOME}/a", content="one"))).matches
    ] == [f"{HOME}/a"]


async def test_case_folding_covers_letters_beyond_ascii(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/a", "ÄRGER (1)\n".encode(), 0o644)
    found = await guest.search(query(content="ärger (1)", ignore_case=True))
    assert [match.text for match in found.matches] == ["ÄRGER (1)"]


async def test_a_long_line_is_cut_around_the_match(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/a", b"x" * 5_000 + b"HERE" + "é".encode() * 5_000, 0o644)
    match = (await guest.search(query(content="HERE"))).matches[0]
    assert match.column == 5_001
    assert "HERE" in match.text
    assert match.text[0] == match.text[-1] == "…"
    assert len(match.text.encode()) < 320
    assert "\ufffd" not in match.text


async def test_hostile_names_and_special_files_do_no_harm(guest: LocalGuest) -> None:
    await make(
        guest,
        "ln -s . loop; ln -s / everything; ln -s nowhere dangling; mkfifo pipe; "
        "printf 'needle' > \"$(printf 'a\\nb\\033[2J\\377')\"; "
        "printf 'needle\\0' > binary; printf 'x\\377 needle' > latin1; "
        "printf needle > closed; chmod 0 closed; mkdir shut; chmod 0 shut; "
        "ln -s /proc/self/mem mem; truncate -s 11M large",
    )
    found = await guest.search(query(content="needle"))
    assert names(found) == ["a\nb\x1b[2J\\xff", "latin1"]
    assert (found.binary, found.large, found.unreadable) == (1, 1, 2)
    assert found.stopped == ""
    regex = await guest.search(query(content="x. need?le", regex=True))
    assert names(regex) == ["latin1"]
    every = await guest.search(query(name="*"))
    kinds = dict(zip(names(every), (match.kind for match in every.matches), strict=True))
    assert kinds["loop"] is Kind.LINK
    assert kinds["pipe"] is Kind.OTHER
    assert len(kinds) == 11


async def test_the_whole_machine_is_searched_without_kernel_files(guest: LocalGuest) -> None:
    await make(guest, "echo 'a unique needle' > here")
    found = await guest.search(query(path="/", content="a unique needle"))
    assert [match.path for match in found.matches] == [f"{HOME}/here"]
    assert found.stopped == ""
    assert not (await guest.search(query(path="/", name="cmdline"))).matches
    assert (await guest.search(query(path="/proc/self", content="Name:"))).matches


async def test_a_search_is_bounded(guest: LocalGuest) -> None:
    await make(
        guest, "yes needle | head -n 200000 > many; mkdir -p $(yes d/ | head -n 150 | tr -d '\\n')"
    )
    found = await guest.search(query(content="needle", max_results=7))
    assert (len(found.matches), found.stopped) == (7, "results")
    found = await guest.search(query(content="no such thing"))
    assert found.unreadable == 1  # the directory that is too deep
    started = time.monotonic()
    slow = query(content="(((e*)*n*)*e*)*zzz", regex=True)
    found = await guest.search(slow)
    assert time.monotonic() - started < 45
    assert found.stopped in ("", "time")


async def test_a_failed_search_is_reported(guest: LocalGuest) -> None:
    with pytest.raises(FileNotFound):
        await guest.search(query(path=f"{HOME}/no", name="*"))
    with pytest.raises(InvalidArgument, match="pattern cannot be used"):
        await guest.search(query(content="(", regex=True))
    await make(guest, "mkdir shut; chmod 0 shut")
    with pytest.raises(FileRefused, match="Permission denied"):
        await guest.search(query(path=f"{HOME}/shut", name="*"))


async def test_a_tree_is_packed_without_special_files(guest: LocalGuest) -> None:
    await make(
        guest,
        "mkdir -p d/.git e; echo hi > d/f; chmod 4755 d/f; ln -s f d/good; ln -s /etc/passwd d/out;"
        "mkfifo d/p; touch d/.git/x; printf x > \"$(printf 'd/a\\n\\377')\"; echo no > d/shut; "
        "chmod 0 d/shut",
    )
    entries = await pack(guest, f"{HOME}/d", (".git",))
    out = io.BytesIO()
    left_out = write_archive(entries, out)  # pyright: ignore[reportArgumentType] # as good as raw
    assert {entry.name: entry.reason for entry in left_out.first} == {
        b"p": "not a file, directory or link",
        b"shut": "Permission denied",
    }
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        members = {member.name: member for member in archive.getmembers()}
    assert set(members) == {"f", "good", "out", "a\n\udcff"}
    assert members["f"].mode == 0o755
    assert members["good"].linkname == "f"
    assert members["out"].linkname == "/etc/passwd"
    assert await pack(guest, f"{HOME}/e") == []


async def test_a_tree_that_is_too_large_ends_early(guest: LocalGuest) -> None:
    await make(guest, "truncate -s 1G huge")
    assert await pack(guest, HOME) == [Skipped(b"", "bytes")]


async def test_an_archive_becomes_files(guest: LocalGuest) -> None:
    entries = [
        TreeEntry(Kind.DIRECTORY, b"d", 0o700),
        TreeEntry(Kind.FILE, b"d/run", 0o755, 1_700_000_000, b"#!/bin/sh\n"),
        TreeEntry(Kind.LINK, b"d/link", data=b"run"),
        TreeEntry(Kind.FILE, b"new/\n\xff/f", 0o4600, 5, bytes(range(256))),
        TreeEntry(Kind.FILE, b"empty"),
    ]
    done = await guest.unpack_tree(f"{HOME}/a/b", b"".join(map(encode, entries)))
    assert (done.files, done.directories, done.links, done.failed) == (3, 1, 1, 0)
    packed = [entry for entry in await pack(guest, f"{HOME}/a/b") if isinstance(entry, TreeEntry)]
    found = {entry.name: entry for entry in packed}
    assert found[b"d/run"] == entries[1]
    assert found[b"d/link"].data == b"run"
    assert found[b"new/\n\xff/f"] == replace(entries[3], mode=0o600)
    assert found[b"d"].mode == 0o700


async def test_a_virtual_environment_survives_a_round_trip(guest: LocalGuest) -> None:
    entries = [
        TreeEntry(Kind.LINK, b"venv/bin/echo", data=b"/.waggle/bin/busybox"),
        TreeEntry(Kind.LINK, b"venv/lib64", data=b"lib"),
        TreeEntry(Kind.LINK, b"venv/out", data=b"../../elsewhere"),
        TreeEntry(Kind.FILE, b"venv/lib/site.py", 0o644, 5, b"pass"),
    ]
    done = await guest.unpack_tree(HOME, b"".join(map(encode, entries)))
    assert (done.files, done.links, done.failed) == (1, 3, 0)
    assert lines(await guest.run(sh("cd venv; bin/echo runs; cat lib64/site.py"))) == [
        "runs",
        "pass",
    ]
    out = io.BytesIO()
    assert write_archive(await pack(guest, f"{HOME}/venv"), out).count == 0  # pyright: ignore[reportArgumentType] # as good as raw
    back = {entry.name: entry.data for entry in read_archive(out.getvalue())}
    assert back[b"bin/echo"] == b"/.waggle/bin/busybox"
    assert back[b"out"] == b"../../elsewhere"


async def test_a_failed_entry_does_not_stop_the_others(guest: LocalGuest) -> None:
    await make(guest, "mkdir -p taken/x shut; chmod 0 shut")
    entries = [
        TreeEntry(Kind.FILE, b"taken", data=b"1"),
        TreeEntry(Kind.FILE, b"shut/f", data=b"2"),
        TreeEntry(Kind.FILE, b"good", data=b"3"),
    ]
    done = await guest.unpack_tree(HOME, b"".join(map(encode, entries)))
    assert (done.files, done.failed) == (1, 2)
    assert [entry.name for entry in done.failures] == [b"taken", b"shut/f"]
    assert done.failures[1].reason == "Permission denied"
    assert sorted(lines(await guest.run(sh(f"ls -A {HOME}")))) == ["good", "shut", "taken"]
    with pytest.raises(FileRefused):
        await guest.unpack_tree("/etc", encode(entries[2]))


async def test_500_small_files_take_one_run(guest: LocalGuest) -> None:
    entries = [TreeEntry(Kind.FILE, b"d%d/f%d" % (n % 10, n), data=b"x" * 500) for n in range(500)]
    out = io.BytesIO()
    write_archive(entries, out)  # pyright: ignore[reportArgumentType] # as good as raw
    started = time.monotonic()
    (batch,) = batches(read_archive(out.getvalue()))
    assert (await guest.unpack_tree(f"{HOME}/many", batch)).files == 500
    assert len(await pack(guest, f"{HOME}/many")) == 510
    in_two_runs = time.monotonic() - started
    started = time.monotonic()
    for entry in entries[:100]:
        await guest.write_file(f"{HOME}/one/{entry.name.decode()}", entry.data, 0o644)
    one_by_one = time.monotonic() - started
    sys.stderr.write(f"500 up and down {in_two_runs:.2f} s, 100 written {one_by_one:.2f} s\n")
    assert in_two_runs < 5 * one_by_one


async def test_a_lying_program_is_not_believed(guest: LocalGuest) -> None:
    await root(
        guest,
        "printf '#!/.waggle/bin/busybox sh\\nprintf \"m\\\\0../../x\\\\0-1\\\\0\"\\n' > /run/lie;"
        "chmod 755 /run/lie && mount --bind /run/lie /.waggle/bin/files",
    )
    try:
        with pytest.raises(GuestLost, match="an invalid answer"):
            await guest.search(query(name="*"))
        with pytest.raises(GuestLost, match="an invalid answer"):
            await guest.unpack_tree(HOME, b"")
    finally:
        await root(guest, "umount /.waggle/bin/files")


async def test_an_edit_notices_a_change_and_keeps_the_mode(guest: LocalGuest) -> None:
    path = f"{HOME}/f"
    await guest.write_file(path, b"before", 0o750)
    data, version = await guest.read_version(path, limit=100)
    assert (data, version.mode) == (b"before", 0o750)
    await guest.write_file(path, b"after", version.mode, unless_changed=version)
    with pytest.raises(FileRefused, match="changed while it was edited"):
        await guest.write_file(path, b"again", 0o750, unless_changed=version)
    assert lines(await guest.run(sh(f"cat {path}; ls -A {HOME}"))) == ["afterf"]
    assert (await guest.read_version(path, limit=100))[1].mode == 0o750
