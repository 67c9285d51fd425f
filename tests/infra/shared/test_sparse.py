# SPDX-License-Identifier: Apache-2.0
"""Copies of sparse files: the same bytes, with holes in place of zeros."""

from __future__ import annotations

import contextlib
import os
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.shared.sparse import apply_changes, clone, copy_changed, copy_data

MIB = 1 << 20
writes = st.lists(st.tuples(st.integers(0, 2 * MIB), st.binary(min_size=1, max_size=64)))


def in_memory(data: bytes = b"") -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, data)
    return descriptor


@given(size=st.integers(0, 2 * MIB), written=writes)
def test_a_copy_has_the_same_bytes(size: int, written: list[tuple[int, bytes]]) -> None:
    data = bytearray(size)
    for at, piece in written:
        data[at : at + len(piece)] = piece
    source, target = in_memory(bytes(data)), in_memory()
    try:
        copy_data(source, target)
        assert os.pread(target, len(data) + 1, 0) == data
    finally:
        os.close(source)
        os.close(target)


def test_written_zeros_take_no_room_in_a_copy() -> None:
    source, target = in_memory(bytes(4 * MIB) + b"end"), in_memory()
    try:
        copy_data(source, target)
        assert os.fstat(target).st_size == 4 * MIB + 3
        assert os.fstat(target).st_blocks * 512 <= 16 << 10 < os.fstat(source).st_blocks * 512
    finally:
        os.close(source)
        os.close(target)


def test_no_more_is_copied_than_was_checked_however_long_the_file_became() -> None:
    """A VMM that was taken over makes its file longer after the check, and writes ahead."""
    source, target = in_memory(b"a" * MIB), in_memory()
    try:
        os.ftruncate(source, 1 << 50)
        for at in (MIB - 1, MIB, 1 << 40, (1 << 50) - 1):
            os.pwrite(source, b"b", at)
        copy_data(source, target, MIB)
        assert os.fstat(target).st_size == MIB
        assert os.pread(target, MIB + 1, 0) == b"a" * (MIB - 1) + b"b"
    finally:
        os.close(source)
        os.close(target)


@given(base=writes, changed=writes, length=st.integers(0, 2 * MIB))
def test_changes_are_copied_where_there_are_any_zeros_too(
    base: list[tuple[int, bytes]], changed: list[tuple[int, bytes]], length: int
) -> None:
    """Of files in memory a page is changed or not."""
    page, size = 4096, 3 * MIB
    before, changes, target = in_memory(), in_memory(), in_memory()
    try:
        os.ftruncate(before, length)
        for at, piece in base:
            os.pwrite(before, piece, at)
        os.ftruncate(changes, size)
        wanted = bytearray(os.pread(before, size, 0).ljust(size, b"\0"))
        for number, (at, piece) in enumerate(changed):
            whole = (piece * page)[:page] if number % 3 else bytes(page)
            start = at - at % page
            os.pwrite(changes, whole, start)
            wanted[start : start + page] = whole
        copy_changed(before, changes, target, size)
        assert os.pread(target, size + 1, 0) == wanted
        os.ftruncate(before, size)
        old = os.pread(before, size, 0)
        ranges = apply_changes(changes, before, size, move=True)
        assert os.pread(before, size + 1, 0) == wanted, "in place, too"
        assert os.fstat(changes).st_blocks == 0
        for begin, end in pairwise([0, *chain(*ranges), size]):
            if (begin, end) not in ranges:
                assert old[begin:end] == wanted[begin:end]
        assert all(later - end > 64 << 10 for (_, end), (later, _) in pairwise(ranges))
    finally:
        for descriptor in (before, changes, target):
            os.close(descriptor)


@pytest.mark.parametrize("left", [0, MIB // 2 + 1, MIB - 1])
def test_a_file_that_became_shorter_is_an_error_or_ends_in_a_hole(left: int) -> None:
    source, target = in_memory(b"a" * MIB), in_memory()
    try:
        os.ftruncate(source, left)
        with contextlib.suppress(OSError):
            copy_data(source, target, MIB)
        assert os.fstat(target).st_size == MIB
        assert os.pread(target, MIB, 0).strip(b"\0").strip(b"a") == b""
    finally:
        os.close(source)
        os.close(target)


def test_a_clone_is_an_independent_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"disk")
    clone(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"else")
    assert (tmp_path / "b").read_bytes() == b"disk"
