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

from waggle.infra.guest.frozen import FrozenFiles, Origin, held


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
