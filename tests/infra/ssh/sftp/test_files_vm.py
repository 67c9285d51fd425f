# SPDX-License-Identifier: Apache-2.0
"""Files of a real machine: written data reads back the same, and bad requests are refused."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

import anyio
import pytest
from tests.support.vm import Lab, command, lines, root, sh

from waggle.domain.errors import FileNotFound, FileRefused, TooLarge
from waggle.domain.files import MAX_FILE_BYTES, MAX_LIST_ENTRIES
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
HOME = "/home/sandbox"
LIMIT = MAX_FILE_BYTES


@pytest.fixture(autouse=True)
async def clean_home(leaks: object, guest: LocalGuest) -> None:
    """Give every test an empty home directory."""
    await root(guest, f"cd {HOME} && rm -rf ..?* .[!.]* *; true")


async def home(guest: LocalGuest) -> list[str]:
    return lines(await guest.run(sh(f"ls -A {HOME}")))


async def read(guest: LocalGuest, path: str) -> bytes:
    """Return the whole file."""
    part = await guest.read_file(path, offset=0, length=LIMIT, limit=LIMIT)
    assert len(part.data) == part.size or path.startswith("/proc")
    return part.data


async def test_written_data_reads_back_byte_for_byte(guest: LocalGuest) -> None:
    for data in (b"", b"x", bytes(range(256)), b"\r\n\0\xff" * 40_000):
        await guest.write_file(f"{HOME}/f", data, 0o644)
        assert await read(guest, f"{HOME}/f") == data
    assert await home(guest) == ["f"]


async def test_ten_mebibytes_pass_in_both_directions(guest: LocalGuest) -> None:
    data = os.urandom(MAX_FILE_BYTES)
    await guest.write_file(f"{HOME}/big", data, 0o600)
    assert await read(guest, f"{HOME}/big") == data
    with pytest.raises(TooLarge, match="10485760 bytes; the limit is 10485759"):
        await guest.read_file(f"{HOME}/big", offset=0, length=1, limit=LIMIT - 1)


async def test_part_of_a_file_is_read_with_the_size_of_the_whole(guest: LocalGuest) -> None:
    data = os.urandom(300_000)
    await guest.write_file(f"{HOME}/f", data, 0o644)
    for offset, length in ((0, 10), (131_071, 2), (5, 200_000), (299_999, 100), (300_000, 1)):
        part = await guest.read_file(f"{HOME}/f", offset=offset, length=length, limit=LIMIT)
        assert (part.data, part.size) == (data[offset : offset + length], len(data))
    beyond = await guest.read_file(f"{HOME}/f", offset=400_000, length=9, limit=LIMIT)
    assert (beyond.data, beyond.size) == (b"", len(data))
    proc = await guest.read_file("/proc/version", offset=6, length=7, limit=LIMIT)
    assert proc.data == b"version"


async def test_parents_are_made_and_mode_and_owner_are_as_requested(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/a/b c/d", b"1", 0o640)
    await guest.write_file(f"{HOME}/run.sh", b"2", 0o4755)
    shown = lines(await guest.run(sh("stat -c '%a %u %g %n' 'a/b c/d' run.sh a")))
    assert shown == ["640 1000 1000 a/b c/d", "4755 1000 1000 run.sh", "755 1000 1000 a"]


async def test_writing_again_keeps_the_mode_unless_one_is_given(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/f", b"long content", 0o600)
    await guest.write_file(f"{HOME}/f", b"short")
    assert lines(await guest.run(sh("cat f; echo; stat -c %a f; ls -A"))) == ["short", "600", "f"]
    await guest.write_file(f"{HOME}/f", b"short", 0o644)
    assert lines(await guest.run(sh("stat -c %a f"))) == ["644"]
    await guest.write_file(f"{HOME}/new", b"")
    await guest.run(sh("chmod 2640 f; echo x > s; chmod 6755 s; echo x > locked; chmod 444 locked"))
    for name in ("f", "s", "locked"):
        await guest.write_file(f"{HOME}/{name}", b"again")
    shown = lines(await guest.run(sh("stat -c '%n %a' new f s locked; cat f s locked")))
    assert shown == ["new 644", "f 2640", "s 755", "locked 444", "againagainagain"]


async def test_hard_links_and_attributes_survive_a_write(guest: LocalGuest) -> None:
    await guest.run(sh("echo old > f; ln f other; chmod 640 f"))
    await guest.write_file(f"{HOME}/f", b"new", None)
    shown = lines(await guest.run(sh("cat other f; echo; stat -c '%h %a' f; ls -A | wc -l")))
    assert shown == ["newnew", "2 640", "2"]


async def test_a_files_owner_stays(guest: LocalGuest) -> None:
    await root(
        guest,
        f"cd {HOME}; echo 1 > open; chmod 666 open; echo 1 > shut; mkdir kept; "
        "echo 1 > kept/mine; chown 1000:1000 kept/mine",
    )
    await guest.write_file(f"{HOME}/open", b"2")
    await guest.write_file(f"{HOME}/kept/mine", b"2")
    with pytest.raises(FileRefused, match="may not do that"):
        await guest.write_file(f"{HOME}/shut", b"2")
    with pytest.raises(FileRefused, match="may not do that"):
        await guest.write_file("/etc/passwd", b"2")
    shown = lines(await guest.run(sh("stat -c '%n %u %a' open shut kept/mine; cat open kept/mine")))
    assert shown == ["open 0 666", "shut 0 644", "kept/mine 1000 644", "22"]
    assert await home(guest) == ["kept", "open", "shut"]
    assert lines(await guest.run(sh("ls -A /tmp"))) == []


async def test_readers_see_the_old_file_or_the_new_one(guest: LocalGuest) -> None:
    old, new = b"a" * 200_000, b"b" * 200_000
    await guest.write_file(f"{HOME}/f", old, 0o644)
    seen: set[bytes] = set()
    async with anyio.create_task_group() as group:
        for data in (new, old, new):
            await group.start(_read_once, guest, seen)
            await guest.write_file(f"{HOME}/f", data, 0o644)
    assert seen <= {old, new}


async def _read_once(
    guest: LocalGuest,
    seen: set[bytes],
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    task_status.started()
    seen.add(await read(guest, f"{HOME}/f"))


async def test_links_are_followed_when_writing_and_reading(guest: LocalGuest) -> None:
    await guest.run(sh("mkdir real; echo old > real/f; ln -s real/f link; ln -s real dir"))
    await guest.write_file(f"{HOME}/link", b"new", 0o644)
    assert await read(guest, f"{HOME}/dir/f") == b"new"
    assert lines(await guest.run(sh("readlink link; ls -A real"))) == ["real/f", "f"]


async def test_a_dangling_link_is_written_through_and_a_loop_is_an_error(guest: LocalGuest) -> None:
    await guest.run(sh("ln -s there dangling; ln -s loop loop; ln -s no/where lost"))
    await guest.write_file(f"{HOME}/dangling", b"here", 0o644)
    assert lines(await guest.run(sh("readlink dangling; cat there"))) == ["there", "here"]
    with pytest.raises(FileRefused, match="link into a directory that is not there"):
        await guest.write_file(f"{HOME}/lost", b"")
    with pytest.raises(FileNotFound, match="loop"):
        await read(guest, f"{HOME}/loop")


async def test_dot_dot_stays_in_the_guest(guest: LocalGuest) -> None:
    await guest.write_file("/../../../../../../tmp/../tmp/x", b"1", 0o644)
    assert await read(guest, "/tmp/x") == b"1"
    listing = await guest.list_files("/../../..")
    assert {"home", "bin", ".waggle"} <= {entry.name for entry in listing.entries}


async def test_a_missing_path_is_not_found(guest: LocalGuest) -> None:
    with pytest.raises(FileNotFound, match="/home/sandbox/none"):
        await read(guest, f"{HOME}/none")
    with pytest.raises(FileNotFound, match="/home/sandbox/none"):
        await guest.list_files(f"{HOME}/none")


async def test_directories_and_files_are_not_interchangeable(guest: LocalGuest) -> None:
    await guest.run(sh("mkdir d; echo 1 > f"))
    with pytest.raises(FileRefused, match="is a directory"):
        await guest.write_file(f"{HOME}/d", b"", 0o644)
    with pytest.raises(FileRefused, match="names a directory"):
        await guest.write_file(f"{HOME}/new/", b"", 0o644)
    with pytest.raises(FileRefused, match="is a directory"):
        await read(guest, f"{HOME}/d")
    with pytest.raises(FileRefused, match="is not a directory"):
        await guest.list_files(f"{HOME}/f")
    with pytest.raises((FileRefused, FileNotFound)):
        await guest.write_file(f"{HOME}/f/below", b"", 0o644)
    assert await home(guest) == ["d", "f"]


async def test_forbidden_paths_are_refused_for_the_sandbox_user(guest: LocalGuest) -> None:
    for path in ("/etc/x", "/x/y"):
        with pytest.raises(FileRefused, match="may not do that"):
            await guest.write_file(path, b"", 0o644)
    for path in ("host_key", "authorized_keys"):
        with pytest.raises(FileRefused, match="may not do that"):
            await read(guest, f"/.waggle/run/identity/{path}")
    for path in ("/root", "/.waggle/run/identity"):
        with pytest.raises(FileRefused, match="may not do that"):
            await guest.list_files(path)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/vda", "/dev/tty", f"{HOME}/pipe"])
async def test_devices_and_pipes_are_refused_without_a_hang(guest: LocalGuest, path: str) -> None:
    await guest.run(sh("mkfifo pipe"))
    with anyio.fail_after(10):
        with pytest.raises(FileRefused, match="not a regular file"):
            await read(guest, path)
        with pytest.raises(FileRefused, match="not a regular file"):
            await guest.write_file(path, b"x", 0o644)


async def test_proc_files_are_read_although_their_size_is_0(guest: LocalGuest) -> None:
    assert (await read(guest, "/proc/version")).startswith(b"Linux version")
    assert b"MemTotal" in await read(guest, "/proc/meminfo")
    with pytest.raises(TooLarge, match="more than 10"):
        await guest.read_file("/proc/meminfo", offset=0, length=1, limit=10)


async def test_names_of_every_kind_pass(guest: LocalGuest) -> None:
    names = ["a b", "-rf", "new\nline", "q'\"`$\\", "é中", "*", "x" * 255, "\x01\x7f"]
    for name in names:
        await guest.write_file(f"{HOME}/dir/{name}", name.encode(), 0o644)
        assert await read(guest, f"{HOME}/dir/{name}") == name.encode()
    listing = await guest.list_files(f"{HOME}/dir")
    assert [entry.name for entry in listing.entries] == sorted(names)
    with pytest.raises(FileRefused):
        await guest.write_file(f"{HOME}/dir/{'x' * 256}", b"", 0o644)


async def test_a_name_that_is_not_utf8_is_shown_escaped(guest: LocalGuest) -> None:
    await guest.run(sh(r"echo 1 > \"$(printf 'a\377b')\"".replace('\\"', '"')))
    (entry,) = (await guest.list_files(HOME)).entries
    assert entry.name == r"a\xffb"


async def test_a_listing_has_the_kind_and_mode_of_every_entry(guest: LocalGuest) -> None:
    await guest.run(
        sh("umask 022; mkdir dir; printf 12345 > file; chmod 604 file; ln -s file link; mkfifo p;"
           "touch -d '2024-05-06 07:08:09' file")
    )  # fmt: skip
    listing = await guest.list_files(HOME)
    found = {e.name: (e.is_dir, e.is_link, stat.filemode(e.mode)[1:]) for e in listing.entries}
    assert found == {
        "dir": (True, False, "rwxr-xr-x"),
        "file": (False, False, "rw----r--"),
        "link": (False, True, "rwxrwxrwx"),
        "p": (False, False, "rw-r--r--"),
    }
    file = next(entry for entry in listing.entries if entry.name == "file")
    assert (file.size, file.modified) == (5, datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))
    assert not listing.truncated


async def test_a_huge_directory_is_cut(guest: LocalGuest) -> None:
    await guest.run(sh("mkdir many; cd many; seq 1 2500 | while read i; do : > $i; done"))
    listing = await guest.list_files(f"{HOME}/many")
    assert listing.truncated
    assert len(listing.entries) == MAX_LIST_ENTRIES
    assert await read(guest, f"{HOME}/many/1") == b""  # the session still works


async def test_a_cancelled_write_leaves_the_old_or_the_new_file(guest: LocalGuest) -> None:
    """The delays cover every length up to a whole write, so every request is cut off once."""
    new = bytes(1 << 20)
    for milliseconds in range(1, 200, 7):
        await guest.write_file(f"{HOME}/f", b"old", 0o644)
        with anyio.move_on_after(milliseconds / 1000):
            await guest.write_file(f"{HOME}/f", new, 0o644)
        assert await read(guest, f"{HOME}/f") in {b"old", new}
        assert await home(guest) == ["f"]


async def test_one_cancelled_call_does_not_disturb_the_others(guest: LocalGuest) -> None:
    data = os.urandom(2 << 20)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(guest.write_file, f"{HOME}/{number}", data, 0o644)
        with anyio.move_on_after(0.1):
            await guest.write_file(f"{HOME}/cancelled", data, 0o644)
    for number in range(3):
        assert await read(guest, f"{HOME}/{number}") == data


async def test_a_file_server_that_was_killed_is_started_again(guest: LocalGuest) -> None:
    await guest.write_file(f"{HOME}/f", b"1", 0o644)
    await guest.run(sh("kill -9 -1"))
    assert await read(guest, f"{HOME}/f") == b"1"


async def test_a_full_disk_keeps_the_old_file_and_can_be_cleared(lab: Lab) -> None:
    guest = await lab.guest(disk=24)
    await guest.write_file(f"{HOME}/f", b"old", 0o644)
    await guest.run(sh("cat /dev/zero > filler"))
    with pytest.raises(FileRefused, match="disk is too full"):
        await guest.write_file(f"{HOME}/f", bytes(1 << 20), 0o644)
    assert await read(guest, f"{HOME}/f") == b"old"
    assert await home(guest) == ["f", "filler"]
    code = command("/.waggle/bin/busybox", "sh", "{file}", code=b"rm filler; echo done")
    assert lines(await guest.run(code)) == ["done"]
    await guest.write_file(f"{HOME}/f", b"new", 0o644)
    assert await read(guest, f"{HOME}/f") == b"new"
