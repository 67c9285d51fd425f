# SPDX-License-Identifier: Apache-2.0
"""Pages of a stream: reading and searching in parts, which joined are the whole."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.infra.shared.spool import Spool
from waggle.mcp.results import COPY_BUDGET, wire_size
from waggle.mcp.results.pages import MAX_BYTES, MAX_MATCHES, read_page


@pytest.fixture
def stream() -> Iterator[Spool]:
    made = Spool(Path("/tmp"), keep=20 << 20, view=1_000)
    yield made
    made.close()


def joined(stream: Spool, limit: int, begin: int = 0) -> str:
    at: int | None = begin
    parts: list[str] = []
    while at is not None:
        part = read_page(stream, offset=at, limit=limit, search=None)
        parts.append(part.content)
        at = part.next_offset
    return "".join(parts)


@given(st.text(max_size=200), st.integers(4, 40))
def test_text_is_complete_for_any_size_of_a_part(text: str, limit: int) -> None:
    stream = Spool(Path("/tmp"), keep=1 << 20, view=1_000)
    stream.feed(text.encode("utf-8", "replace"))
    assert joined(stream, limit) == text.encode("utf-8", "replace").decode()
    stream.close()


@given(st.binary(max_size=300), st.integers(1, 40))
def test_reading_any_bytes_reaches_the_end(data: bytes, limit: int) -> None:
    stream = Spool(Path("/tmp"), keep=1 << 20, view=1_000)
    stream.feed(data)
    assert len(joined(stream, limit)) >= len(data.decode("utf-8", "ignore"))
    stream.close()


def test_an_offset_below_0_counts_from_the_end(stream: Spool) -> None:
    stream.feed(b"one two three")
    part = read_page(stream, offset=-5, limit=None, search=None)
    assert (part.content, part.offset, part.next_offset) == ("three", 8, None)
    assert read_page(stream, offset=-500, limit=3, search=None).content == "one"
    assert read_page(stream, offset=500, limit=3, search=None).content == ""


def test_the_worst_bytes_stay_within_the_budget(stream: Spool) -> None:
    for noise in (b"\xff", b"\x01", b"\\", "\U0001f600".encode()):
        stream.feed(noise * 100_000)
        part = read_page(stream, offset=-MAX_BYTES, limit=MAX_BYTES, search=None)
        assert wire_size(part.content) <= COPY_BUDGET


def test_bytes_that_were_not_kept_are_refused_with_a_next_step() -> None:
    stream = Spool(Path("/tmp"), keep=10, view=10)
    stream.feed(b"x" * 1_000_000)
    with pytest.raises(InvalidArgument, match="Not all of this stream is kept") as refused:
        read_page(stream, offset=500, limit=10, search=None)
    assert "below 0" in refused.value.hint
    stream.close()


def test_searching_finds_lines_with_their_offsets(stream: Spool) -> None:
    stream.feed(b"ok\nERROR one\nok\n" * 2)
    stream.feed(b"last ERROR")
    part = read_page(stream, offset=0, limit=None, search="ERROR")
    assert part.content == "3: ERROR one\n19: ERROR one\n32: last ERROR"
    assert part.next_offset is None
    assert read_page(stream, offset=4, limit=None, search="ERROR").content.startswith("19: ERROR")


def test_many_matches_are_returned_in_parts_without_repeats(stream: Spool) -> None:
    lines = [b"%06d %s" % (n, b"x" * (n % 900)) for n in range(MAX_MATCHES * 3)]
    stream.feed(b"\n".join(lines))
    at: int | None = 0
    seen: list[str] = []
    while at is not None:
        part = read_page(stream, offset=at, limit=None, search="0")
        assert wire_size(part.content) <= COPY_BUDGET
        seen += [re.sub(r"^\d+: ", "", line)[:6] for line in part.content.split("\n")]
        at = part.next_offset
    assert seen == [line[:6].decode() for line in lines]


def test_a_line_without_an_end_is_searched_in_bounded_memory(stream: Spool) -> None:
    stream.feed(b"x" * (9 << 20) + b"needle")
    part = read_page(stream, offset=0, limit=None, search="needle")
    assert part.content == ""
    assert part.next_offset is not None
    part = read_page(stream, offset=part.next_offset, limit=None, search="needle")
    assert part.next_offset is None
    assert part.content


@pytest.mark.parametrize("begin", [0, 15, 500, -100])
def test_a_search_skips_the_bytes_that_were_not_kept(begin: int) -> None:
    stream = Spool(Path("/tmp"), keep=20, view=10)
    stream.feed(b"ERROR one\n" + b"noise\n" * 200_000 + b"ERROR two\nnoise\n")
    part = read_page(stream, offset=begin, limit=None, search="ERROR")
    *before, last = part.content.split("\n")
    assert last == "1200010: ERROR two"
    gap = f"[bytes {max(20, begin)} to {stream.tail} were not kept]"
    assert before == {0: ["0: ERROR one", gap], -100: []}.get(begin, [gap])
    assert part.next_offset is None
    stream.close()
