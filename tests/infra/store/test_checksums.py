# SPDX-License-Identifier: Apache-2.0
"""Checksums of sparse files: any change is noticed, holes and zeros are alike."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.store.checksums import (
    BLOCK,
    block_sums,
    crc32,
    digest,
    sha256,
    sums_after,
)

SIZE = 5 * BLOCK + 100
writes = st.lists(st.tuples(st.integers(0, SIZE - 64), st.binary(min_size=1, max_size=64)))
both = pytest.mark.parametrize("checksum", [crc32, sha256])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(BLOCK) + b"data" + bytes(SIZE - BLOCK - 4))
    return path


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[BLOCK + 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def moved(path: Path) -> None:
    path.write_bytes(bytes(2 * BLOCK) + b"data" + bytes(SIZE - 2 * BLOCK - 4))


def emptied(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


@both
@pytest.mark.parametrize("damage", [flipped, cut, longer, moved, emptied])
def test_damage_is_noticed(
    file: Path, checksum: Callable[[Path], str], damage: Callable[[Path], None]
) -> None:
    before = checksum(file)
    damage(file)
    assert checksum(file) != before


@both
def test_holes_are_zeros(file: Path, tmp_path: Path, checksum: Callable[[Path], str]) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as target:
        target.truncate(SIZE)
        target.seek(BLOCK)
        target.write(b"data")
    assert checksum(sparse) == checksum(file)


@given(before=writes, after=writes)
def test_sums_after_changes_are_those_of_the_whole_file(
    before: list[tuple[int, bytes]], after: list[tuple[int, bytes]]
) -> None:
    with tempfile.NamedTemporaryFile() as named:
        path = Path(named.name)
        data = bytearray(SIZE)
        for at, piece in before:
            data[at : at + len(piece)] = piece
        path.write_bytes(data)
        sums = block_sums(path)
        assert digest(SIZE, sums) == crc32(path)
        for at, piece in after:
            data[at : at + len(piece)] = piece
        path.write_bytes(data)
        ranges = [(at, at + len(piece)) for at, piece in after]
        assert digest(SIZE, sums_after(path, sums, ranges)) == crc32(path)


def test_damage_elsewhere_is_not_taken_for_a_change(file: Path) -> None:
    sums = block_sums(file)
    flipped(file)
    assert sums_after(file, sums, [(3 * BLOCK, 3 * BLOCK + 1)]) == sums
    assert digest(SIZE, sums) != crc32(file)


@given(
    sums=st.lists(st.sampled_from([0, 0, 1, 1 << 31, (1 << 32) - 1]), max_size=300),
    size=st.integers(0, 1 << 40),
    before=st.sampled_from([0, 1 << 16]),
)
def test_a_digest_is_of_the_size_and_of_where_each_block_is_that_is_not_zero(
    sums: list[int], size: int, before: int
) -> None:
    """However they are packed: manifests keep it. `before` are blocks of zeros, up to 4 GiB."""
    whole = hashlib.sha256(size.to_bytes(8, "big"))
    for number, crc in enumerate(sums, before):
        if crc:
            whole.update((number * BLOCK).to_bytes(8, "big") + crc.to_bytes(4, "big"))
    assert digest(size, array("I", [0] * before + sums)) == whole.hexdigest()
