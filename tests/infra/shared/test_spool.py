# SPDX-License-Identifier: Apache-2.0
"""A spool of an output stream: it keeps everything, or the beginning and the end; never more."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.small_disk import needs_root, small_disk

from waggle.infra.shared.spool import IN_MEMORY, Spool

Make = Callable[[int, int], Spool]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """A factory of spools that closes them and checks that none left a file."""
    spools: list[Spool] = []

    def make(keep: int, view: int) -> Spool:
        spools.append(Spool(tmp_path, keep=keep, view=view))
        return spools[-1]

    yield make
    assert list(tmp_path.iterdir()) == []
    for spool in spools:
        spool.close()


def test_a_short_stream_is_kept_whole(made: Make) -> None:
    spool = made(1_000, 100)
    spool.feed(b"one\n")
    spool.feed(b"two\n\n")
    assert spool.output().text() == "one\ntwo\n\n"
    assert (spool.read(4, 3), spool.read(0, 99), spool.read(9, 5)) == (b"two", b"one\ntwo\n\n", b"")
    assert (spool.total, spool.kept, spool.last_line()) == (9, 9, "two")


def test_a_long_stream_is_shown_in_part_and_readable_in_full(made: Make) -> None:
    spool = made(1_000_000, 10)
    data = os.urandom(IN_MEMORY * 3)
    for begin in range(0, len(data), 1_000):
        spool.feed(data[begin : begin + 1_000])
    shown = spool.output()
    assert (shown.head, shown.tail, shown.total) == (data[:5], data[-5:], len(data))
    assert spool.read(70_000, 100_000) == data[70_000:170_000]


def test_an_endless_stream_keeps_its_beginning_and_its_end(made: Make) -> None:
    spool = made(1_000, 400)
    for number in range(1_000):
        spool.feed(b"%03d" % number * 1_000)
    shown = spool.output()
    assert (shown.head, shown.tail) == (b"000" * 66 + b"00", b"99" + b"999" * 66)
    assert spool.total == 3_000_000
    with pytest.raises(ValueError, match=r"bytes 1000 to 2\d+ were not kept"):
        spool.read(1_000, 10)
    assert spool.read(2_999_997, 10) == b"999"


@needs_root
@pytest.mark.parametrize("room", [0, 10_000, IN_MEMORY + 10_000])
def test_a_full_disk_ends_the_spool_without_an_error(tmp_path: Path, room: int) -> None:
    """A disk may take part of the data: every byte that counts as kept must be readable."""
    piece = os.urandom(10_000)
    with small_disk(tmp_path / "disk", 1) as disk:
        disk.fill(leave=room)
        spool = Spool(disk.path, keep=1 << 20, view=20)
        for _ in range(20):
            spool.feed(piece)
        assert spool.disk_full
        kept = spool.kept
        assert kept < spool.total == 200_000
        assert kept >= min(room, IN_MEMORY) // 10_000 * 10_000
        assert spool.read(0, kept + 1) == (piece * 20)[:kept]
        assert spool.output().tail == piece[-10:]
        disk.free()
        spool.feed(b"not kept: there would be a gap")
        assert spool.kept == kept
        spool.close()


def test_a_stream_beyond_the_limit_does_not_count_as_a_full_disk(made: Make) -> None:
    spool = made(IN_MEMORY * 2, 20)
    spool.feed(bytes(IN_MEMORY * 3))
    assert (spool.kept, spool.disk_full) == (IN_MEMORY * 2, False)


def test_a_closed_spool_still_takes_output_and_keeps_its_end(made: Make) -> None:
    spool = made(100, 100)
    spool.feed(b"before")
    spool.close()
    spool.close()
    spool.feed(b"after\n")
    assert (spool.last_line(), spool.output().tail) == ("after", b"after\n")


@given(
    st.lists(st.binary(max_size=50), max_size=30),
    st.integers(0, 300),
    st.integers(1, 200),
)
def test_output_is_the_head_and_the_tail(pieces: list[bytes], keep: int, view: int) -> None:
    spool = Spool(Path("/tmp"), keep=keep, view=view)
    for piece in pieces:
        spool.feed(piece)
    data = b"".join(pieces)
    shown = spool.output()
    assert shown.total == len(data)
    assert data.startswith(shown.head)
    assert data.endswith(shown.tail)
    assert len(shown.head) + len(shown.tail) <= max(view, 1)
    if len(data) <= view:
        assert shown.dropped == 0
    for offset in range(0, len(data), 7):
        assert (
            spool.read(offset, 9)
            == data[offset : offset + 9][: max(1, keep - offset) if offset < keep else 9]
        )
    spool.close()
