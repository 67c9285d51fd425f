# SPDX-License-Identifier: Apache-2.0
"""`Lines` returns lines unchanged, whatever the pieces; a line that is too long is bounded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.stdio import ENDS, Lines, TooLong


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=20))
def test_lines_do_not_depend_on_the_pieces(data: bytes, sizes: list[int]) -> None:
    lines, found, at = Lines(1000), list[bytes | TooLong](), 0
    for size in [*sizes, len(data) + 1]:
        found += lines.feed(data[at : at + size])
        at += size
    assert [*found, lines.end()] == data.split(b"\n")


@given(st.integers(1, 30), st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 50))
def test_only_too_long_lines_are_dropped(longest: int, sent: list[bytes], size: int) -> None:
    sent = [line.replace(b"\n", b" ") for line in sent]
    data = b"".join(line + b"\n" for line in sent)
    lines = Lines(longest)
    found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
    for line, given_back in zip(sent, found, strict=True):
        if len(line) <= longest:
            assert given_back == line
        else:
            assert isinstance(given_back, TooLong)
            assert given_back.size == len(line)
            assert line.startswith(given_back.head)
            assert line.endswith(given_back.tail)


def test_little_is_kept_of_a_huge_line() -> None:
    lines = Lines(10_000)
    for _ in range(1000):
        assert not list(lines.feed(b"x" * 10_000))
    (line,) = lines.feed(b"\n")
    assert isinstance(line, TooLong)
    assert line.size == 10_000_000
    assert len(line.head) <= ENDS + 10_000
    assert len(line.tail) <= ENDS


@pytest.mark.parametrize("number", [7, -1, "a-b", 'with "quotes" and \u00fc'])
@pytest.mark.parametrize("order", ["first", "last"])
def test_the_request_id_of_a_long_line_is_found(number: int | str, order: str) -> None:
    named = {"jsonrpc": "2.0", "id": number, "method": "tools/call"}
    params = {"params": {"id": 99, "text": '{"id": 98}' * 2000}}
    message = (
        {**named, **params} if order == "first" else {**params, "jsonrpc": "2.0", "id": number}
    )
    lines = Lines(5000)
    (line,) = lines.feed(json.dumps(message).encode() + b"\n")
    assert isinstance(line, TooLong)
    assert line.request_id() == number


def test_a_long_line_without_an_id_has_none() -> None:
    message = {"jsonrpc": "2.0", "method": "x", "params": {"id": 5, "text": '{"id": 6}' * 2000}}
    (line,) = Lines(5000).feed(json.dumps(message).encode() + b"\n")
    assert isinstance(line, TooLong)
    assert line.request_id() is None
