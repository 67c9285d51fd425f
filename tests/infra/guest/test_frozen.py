# SPDX-License-Identifier: Apache-2.0
"""The memory of a frozen machine; `tests/vm/test_freezing.py` has real machines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.held_threads import held_threads
from tests.support.leaks import Leaks

from waggle.domain.machine import RAM
from waggle.infra.guest.frozen import FrozenFiles, Origin, held, memory_in


@pytest.fixture
def frozen() -> Generator[FrozenFiles]:
    with contextlib.closing(FrozenFiles("qemu", mib=1)) as made:
        yield made


def is_sealed(frozen: FrozenFiles) -> bool:
    files = (frozen.ram, frozen.state)
    return all(fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE for file in files)


def descriptors() -> set[Path]:
    """Return the numbers that are open; that of the directory itself is the lowest free one."""
    return set(Path("/proc/self/fd").iterdir())


def test_an_origin_that_cannot_hold_both_files_holds_none(frozen: FrozenFiles) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="Bad file descriptor"):
        Origin(frozen.ram, -1)
    assert descriptors() == before


def test_memory_that_stays_mapped_for_writing_is_not_sealed(frozen: FrozenFiles) -> None:
    with mmap.mmap(frozen.ram, 1 << 20), pytest.raises(OSError, match="busy") as refused:
        frozen.seal(patience=0)
    assert refused.value.errno == errno.EBUSY


def test_sealing_waits_until_memory_is_released(frozen: FrozenFiles) -> None:
    with ThreadPoolExecutor(1) as thread:
        with mmap.mmap(frozen.ram, 1 << 20):
            sealed = thread.submit(frozen.seal, patience=30)
        sealed.result()
    assert is_sealed(frozen)


@pytest.mark.anyio
async def test_no_memory_is_freed_on_the_event_loop() -> None:
    """The kernel takes half a second for 4 GiB, and all tenants would wait."""
    leaks = Leaks()
    frozen = FrozenFiles("qemu")
    origin = Origin(frozen.ram, frozen.state)
    with held_threads() as threads:
        with contextlib.ExitStack() as stack:
            own = held(frozen.ram, stack)
        origin.close()
        frozen.close()
        frozen.close()
        for descriptor in (own, origin.ram, origin.state, frozen.ram, frozen.state):
            os.fstat(descriptor)
        threads.go()
    await leaks.settle()


def test_memory_that_was_only_touched_is_released(frozen: FrozenFiles) -> None:
    """A VMM that receives memory writes what is empty, too."""
    data = bytes(1 << 19) + b"word" + bytes((1 << 19) - 4)
    os.pwrite(frozen.ram, data, 0)
    frozen.compact()
    assert os.pread(frozen.ram, 2 << 20, 0) == data
    assert os.fstat(frozen.ram).st_blocks * 512 == 16 << 10
    frozen.seal()
    assert is_sealed(frozen)


def test_memory_on_the_disk_is_neither_copied_nor_sealed(tmp_path: Path) -> None:
    """The one machine that resumes maps it, under another user's id."""
    with contextlib.closing(FrozenFiles("qemu", mib=1)) as frozen:
        os.pwrite(frozen.ram, b"word", 0)
        os.pwrite(frozen.state, b"devices", 0)
        frozen.save(tmp_path)
    assert (tmp_path / RAM).stat().st_mode & 0o777 == 0o600
    with contextlib.closing(FrozenFiles.load(tmp_path, "qemu", on_disk=True)) as loaded:
        assert loaded.is_on_disk
        assert os.path.samestat(os.fstat(loaded.ram), (tmp_path / RAM).stat())
        assert os.fstat(loaded.ram).st_mode & 0o777 == 0o644
        assert os.pread(loaded.state, 100, 0) == b"devices"
        assert fcntl.fcntl(loaded.state, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(loaded.ram, b"x", 0)


def test_a_link_in_the_place_of_memory_is_not_followed(tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "other").write_bytes(b"x")
    (tmp_path / RAM).symlink_to("other")
    with pytest.raises(OSError, match="symbolic"):
        FrozenFiles.load(tmp_path, "qemu", on_disk=True)
    with (tmp_path / "other").open("rb") as base, pytest.raises(OSError, match="symbolic"):
        memory_in(tmp_path, base.fileno())
    assert descriptors() == before
