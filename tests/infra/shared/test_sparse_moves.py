# SPDX-License-Identifier: Apache-2.0
"""Files in memory that are moved: both together take the room of one."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from waggle.infra.shared.sparse import copy_data

MIB = 1 << 20


@pytest.fixture
def files() -> Generator[tuple[int, int]]:
    both = os.memfd_create("source"), os.memfd_create("target")
    yield both
    for descriptor in both:
        os.close(descriptor)


def taken(*descriptors: int) -> int:
    return sum(os.fstat(descriptor).st_blocks * 512 for descriptor in descriptors)


def test_both_files_never_take_much_more_than_one(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of a machine that is frozen is promised once, not twice."""
    source, target = files
    data = os.urandom(3 * MIB) + bytes(2 * MIB) + os.urandom(3 * MIB)
    os.pwrite(source, data, 0)
    most, write = 0, os.pwrite

    def watched(descriptor: int, piece: bytes, offset: int) -> int:
        nonlocal most
        size = write(descriptor, piece, offset)
        most = max(most, taken(*files))
        return size

    monkeypatch.setattr(os, "pwrite", watched)
    copy_data(source, target, move=True)
    assert 8 * MIB < most <= 9 * MIB
    assert taken(source) == 0
    assert os.fstat(source).st_size == 8 * MIB
    assert taken(target) == 6 * MIB
    assert os.pread(target, 9 * MIB, 0) == data


def test_no_more_than_was_checked_is_moved(files: tuple[int, int]) -> None:
    source, target = files
    os.pwrite(source, b"a" * 2 * MIB, 0)
    copy_data(source, target, MIB, move=True)
    assert os.pread(target, 2 * MIB, 0) == b"a" * MIB
    assert taken(source) == MIB


def test_a_file_that_cannot_be_freed_is_an_error(files: tuple[int, int]) -> None:
    source, target = files
    os.pwrite(source, b"a", 0)
    only_read = os.open(f"/proc/self/fd/{source}", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            copy_data(only_read, target, move=True)
    finally:
        os.close(only_read)
