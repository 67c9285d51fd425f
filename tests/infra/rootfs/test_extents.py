# SPDX-License-Identifier: Apache-2.0
"""Extents are joined where no content is lost, and copied byte for byte."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.rootfs.erofs_format import BLOCK, Extent, copied, joined


def padded(size: int) -> int:
    return size + -size % BLOCK


@st.composite
def placed(draw: st.DrawFn) -> list[Extent]:
    """Draw extents with gaps of whole or partial blocks between sources and contiguous targets."""
    found: list[Extent] = []
    source = start = target = 0
    for size in draw(st.lists(st.integers(1, 3 * BLOCK), max_size=12)):
        if draw(st.integers(0, 5)) == 0:
            source, start = source + 1, 0
        start += draw(st.sampled_from([0, 0, 0, BLOCK, 512]))
        found.append(Extent(source, start, size, target))
        start, target = start + padded(size), target + padded(size)
    return found


@given(placed())
def test_joined_extents_keep_every_content_at_its_target(extents: list[Extent]) -> None:
    found = list(joined(extents))
    for extent in extents:
        [holder] = [
            joint
            for joint in found
            if joint.target <= extent.target < joint.target + joint.size
            and joint.source == extent.source
        ]
        assert extent.start - holder.start == extent.target - holder.target
        assert extent.start + extent.size <= holder.start + holder.size
    assert sum(joint.size for joint in found) <= sum(padded(extent.size) for extent in extents)


@given(placed())
def test_joined_extents_add_only_padding(extents: list[Extent]) -> None:
    for joint in joined(extents):
        inside = [e for e in extents if joint.target <= e.target < joint.target + joint.size]
        gaps = joint.size - sum(extent.size for extent in inside)
        assert gaps == sum(padded(extent.size) - extent.size for extent in inside[:-1])


def test_adjacent_extents_are_joined() -> None:
    extents = [Extent(0, 0, 5000, 8192), Extent(0, 8192, 1, 16384), Extent(1, 12288, 1, 20480)]
    assert list(joined(extents)) == [Extent(0, 0, 8193, 8192), extents[2]]


@pytest.mark.parametrize("start", [0, 1])
def test_everything_is_copied_and_progress_is_reported(tmp_path: Path, start: int) -> None:
    data = random.Random(1).randbytes(20_000_000)
    (tmp_path / "source").write_bytes(data)
    extents = [Extent(0, start, 9_000_000, BLOCK), Extent(0, 15_000_001, 4_999_999, 9_011_200)]
    with (tmp_path / "source").open("rb") as source, (tmp_path / "out").open("wb") as out:
        offsets = list(copied(extents, [source.fileno()], out.fileno()))
    assert offsets == sorted(offsets)
    assert (len(offsets), offsets[-1]) == (3, 9_011_200 + 4_999_999)
    made = (tmp_path / "out").read_bytes()
    assert made[BLOCK : BLOCK + 9_000_000] == data[start : start + 9_000_000]
    assert made[9_011_200:] == data[15_000_001:]


def test_a_copy_that_the_kernel_refuses_is_done_in_user_space(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 5000)
    appending = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:  # the kernel refuses to copy into a file opened with O_APPEND
        with (tmp_path / "source").open("rb") as source:
            assert list(copied([Extent(0, 1000, 4000, 0)], [source.fileno()], appending)) == [4000]
    finally:
        os.close(appending)
    assert (tmp_path / "out").read_bytes() == b"x" * 4000


def test_a_source_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 10)
    with (
        (tmp_path / "source").open("rb") as source,
        (tmp_path / "out").open("wb") as out,
        pytest.raises(OSError, match="too short"),
    ):
        list(copied([Extent(0, 0, 11, 0)], [source.fileno()], out.fileno()))
