# SPDX-License-Identifier: Apache-2.0
"""A machine's state on its way through /run, which a VMM that was taken over fills as it likes."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from tests.support.waiting import until_sync

from waggle.domain.errors import BootFailed
from waggle.domain.machine import RAM, STATE
from waggle.infra.firecracker.frozen import (
    MAX_STATE,
    discard,
    make_memory,
    prepare,
    put_state,
    state_in,
    take,
    take_room,
)
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.shared.sparse import copy_over

PAGE = 4096
MIB = 1 << 20


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory, as /run is: room is data on other file systems."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    run = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield run
    os.close(run)


@contextlib.contextmanager
def taken(
    run: int, memory: int, base: int | None = None, into: Path | None = None
) -> Generator[FrozenFiles]:
    made = take(state_in(run), memory, 1, base, "1.12.1 digest", into)
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def prepared(run: int, *, changes: bool = False) -> Generator[int]:
    memory = make_memory(run, None)
    try:
        prepare(memory, 1, changes=changes)
        yield memory
    finally:
        os.close(memory)
        discard(run)


def test_what_the_vmm_wrote_is_taken_without_empty_memory(place: int, tmp_path: Path) -> None:
    with prepared(place) as memory:
        with (tmp_path / "memory").open("r+b") as file:
            file.seek(PAGE)
            file.write(b"m" * PAGE)
        (tmp_path / "state").write_bytes(b"state")
        before = os.fstat(memory).st_blocks
        with taken(place, memory) as copy:
            assert os.fstat(memory).st_blocks < before, "it is freed while it is taken"
            assert os.pread(copy.ram, PAGE, PAGE) == b"m" * PAGE
            assert os.fstat(copy.ram).st_size == MIB
            assert os.fstat(copy.ram).st_blocks * 512 <= 16 * 1024
            assert os.pread(copy.state, 100, 0) == b"state"
            assert copy.vmm == "1.12.1 digest"
    assert [*tmp_path.iterdir()] == []


GIB = 1024
"""A machine of which a small process has changed little; this one has changed all of 1 MiB."""


@pytest.fixture(scope="module")
def small() -> Iterator[int]:
    """A process that has little memory; a worker of these tests has much."""
    with subprocess.Popen(("sleep", "1000")) as process:
        until_sync(lambda: b"sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        yield process.pid
        process.kill()


@pytest.mark.parametrize("mib, is_whole", [(GIB, False), (1, True)])
def test_changes_take_the_place_of_what_the_machine_began_with(
    place: int, tmp_path: Path, small: int, mib: int, is_whole: bool
) -> None:
    base = FrozenFiles("1.12.1 digest", mib=1)
    os.pwrite(base.ram, b"a" * 3 * PAGE, 0)
    with contextlib.closing(base), prepared(place, changes=True) as memory:
        assert take_room(memory, mib, os.getpid() if is_whole else small) is is_whole
        if is_whole:
            copy_over(base.ram, memory)
        assert os.fstat(memory).st_blocks * 512 == (MIB if is_whole else 0)
        change(tmp_path)
        with taken(place, memory, None if is_whole else base.ram) as copy:
            assert os.pread(copy.ram, 2 * MIB, 0) == CHANGED
            assert os.fstat(copy.ram).st_blocks * 512 <= 32 * 1024


def change(run: Path) -> None:
    """Write changes of three pages of `a`, as a VMM does: what became zero is one, too."""
    with (run / "memory").open("r+b") as file:
        file.seek(PAGE)
        file.write(bytes(PAGE))
        file.seek(5 * PAGE)
        file.write(b"b" * PAGE)
    (run / "state").write_bytes(b"state")


CHANGED = (b"a" * PAGE + bytes(PAGE) + b"a" * PAGE + bytes(2 * PAGE) + b"b" * PAGE).ljust(
    MIB, b"\0"
)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a disk, with the memory that the machine has resumed from."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        (Path(name) / RAM).write_bytes((b"a" * 3 * PAGE).ljust(MIB, b"\0"))
        yield Path(name)


def test_changes_of_a_machine_go_to_the_file_that_it_maps(
    place: int, tmp_path: Path, disk: Path
) -> None:
    its = (disk / RAM).stat()
    with (disk / RAM).open("rb") as base, prepared(place, changes=True) as memory:
        change(tmp_path)
        with taken(place, memory, base.fileno(), disk) as copy:
            assert copy.is_on_disk
            assert copy.changed == [(PAGE, 6 * PAGE)]
            assert os.path.samestat(os.fstat(copy.ram), its)
            (disk / "saved").mkdir()
            copy.save(disk / "saved")
    assert (disk / RAM).read_bytes() == CHANGED
    assert [path.name for path in (disk / "saved").iterdir()] == [STATE]


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_file_that_the_machine_does_not_map_is_replaced(
    place: int, tmp_path: Path, disk: Path, is_whole: bool
) -> None:
    """It may be that of an earlier machine, or the VMM has written everything."""
    base = FrozenFiles("1.12.1 digest", mib=1)
    os.pwrite(base.ram, b"a" * 3 * PAGE, 0)
    with (
        contextlib.closing(base),
        (disk / RAM).open("rb") as its,
        prepared(place, changes=not is_whole) as memory,
    ):
        if is_whole:
            os.pwrite(memory, b"a" * 3 * PAGE, 0)
        change(tmp_path)
        with taken(place, memory, None if is_whole else base.ram, disk) as copy:
            assert not os.path.samestat(os.fstat(copy.ram), os.fstat(its.fileno()))
            assert copy.changed is None
    assert (disk / RAM).read_bytes() == CHANGED
    assert (disk / RAM).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_no_fault_of_the_vmm(
    place: int, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with prepared(place) as memory:
        change(tmp_path)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"), taken(place, memory, None, disk):
            pass


def nothing(*_: object) -> bytes:
    return b""


def test_memory_that_a_vmm_cuts_off_meanwhile_is_its_fault(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with prepared(place) as memory:
        change(tmp_path)
        monkeypatch.setattr(os, "pread", nothing)
        with pytest.raises(BootFailed, match="another size"):
            take(b"state", memory, 1, None, "1.12.1 digest", None)


def test_changes_beyond_what_a_limit_has_besides_are_much_of_any_machine(
    place: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All memory may be written besides them, also what the guest has freed."""
    with prepared(place, changes=True) as memory:
        assert not take_room(memory, 1, small)
        monkeypatch.setattr("waggle.infra.firecracker.frozen._SPARE_KIB", 1)
        assert take_room(memory, 1, small)


def test_a_file_for_the_changes_of_a_vmm_that_cannot_be_looked_at_has_room(place: int) -> None:
    with prepared(place, changes=True) as memory:
        assert take_room(memory, 1, 2**22 + 1)  # above the highest number of a process


def no_state(directory: Path) -> None:
    (directory / "state").unlink()


def empty(directory: Path) -> None:
    os.truncate(directory / "state", 0)


def huge(directory: Path) -> None:
    os.truncate(directory / "state", MAX_STATE + 1)


def link(directory: Path) -> None:
    (directory / "state").unlink()
    (directory / "state").symlink_to("/etc/passwd")


def pipe(directory: Path) -> None:
    (directory / "state").unlink()
    os.mkfifo(directory / "state")


def other_directory(directory: Path) -> None:
    (directory / "state").unlink()
    (directory / "state").mkdir()


def short(directory: Path) -> None:
    os.truncate(directory / "memory", MIB - 1)


def endless(directory: Path) -> None:
    os.truncate(directory / "memory", 1 << 40)


@pytest.mark.parametrize(
    "spoil", [no_state, empty, huge, link, pipe, other_directory, short, endless]
)
def test_what_a_vmm_may_leave_instead_is_refused_at_once(
    place: int, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    with prepared(place) as memory:
        (tmp_path / "state").write_bytes(b"state")
        spoil(tmp_path)
        with pytest.raises((BootFailed, OSError)), taken(place, memory):
            pass


def test_a_name_that_the_vmm_took_first_is_not_followed(place: int, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    for name in ("memory", "state"):
        (tmp_path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(FileExistsError):
        make_memory(place, None)
    with pytest.raises(FileExistsError):
        put_state(place, place, None)
    assert (tmp_path / "outside").read_bytes() == b"mine"
    discard(place)
    assert (tmp_path / "outside").exists()


def test_a_directory_in_their_place_stops_nothing(place: int, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    discard(place)
    discard(place)


def test_a_copy_gets_the_state_as_a_file(place: int, tmp_path: Path) -> None:
    with contextlib.closing(FrozenFiles("1.12.1 digest")) as copy:
        os.pwrite(copy.state, b"devices", 0)
        put_state(place, copy.state, None)
    assert (tmp_path / "state").read_bytes() == b"devices"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
