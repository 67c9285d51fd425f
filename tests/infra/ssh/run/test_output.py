# SPDX-License-Identifier: Apache-2.0
"""The output collector keeps a stream's first and last half and counts every byte."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.ssh.run import launcher
from waggle.infra.ssh.run.launcher import OutputCollector

OURS = tracemalloc.Filter(True, launcher.__file__)


@given(pieces=st.lists(st.binary(max_size=50), max_size=20), limit=st.integers(0, 60))
def test_it_keeps_the_head_and_tail_of_the_stream(pieces: list[bytes], limit: int) -> None:
    collector = OutputCollector(limit)
    for piece in pieces:
        collector.feed(piece)
    data, kept = b"".join(pieces), collector.output()
    assert kept.total == len(data)
    assert len(kept.head) + len(kept.tail) == min(limit, len(data))
    assert data.startswith(kept.head)
    assert data.endswith(kept.tail)
    if len(data) <= limit:
        assert kept.head + kept.tail == data
    else:
        assert abs(len(kept.head) - len(kept.tail)) <= 1


def test_output_can_be_read_in_the_middle() -> None:
    collector = OutputCollector(4)
    collector.feed(b"abc")
    assert collector.output().head + collector.output().tail == b"abc"
    collector.feed(b"defg")
    assert (collector.output().head, collector.output().tail) == (b"ab", b"fg")


@pytest.mark.parametrize("piece", [1, 2, 100])
def test_memory_is_bounded_by_the_limit_for_any_pieces(piece: int) -> None:
    tracemalloc.start()
    try:
        collector = OutputCollector(100_000)
        for _ in range(300_000 // piece):
            collector.feed(b"xy"[:piece] if piece < 3 else b"x" * piece)
        ours = tracemalloc.take_snapshot().filter_traces([OURS])
        assert sum(entry.size for entry in ours.statistics("filename")) < 250_000
    finally:
        tracemalloc.stop()
