# SPDX-License-Identifier: Apache-2.0
"""Displays: what a guest wrote is read back, and whatever it writes, nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.displays import framed, png, record

from waggle.domain.programs.display import (
    MAX_COUNTED,
    MAX_DEPTH,
    MAX_MEMBERS,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    MAX_REPRESENTATIONS,
    Display,
    Displays,
    parse_displays,
)


def parsed(data: bytes, *, whole: bool = True) -> Displays:
    return parse_displays(lambda at, length: data[at : at + length], len(data), whole=whole)


def only(data: bytes) -> Display:
    (item,) = parsed(data).items
    return item


offsets = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=4)
bundles = st.fixed_dictionaries(
    {"text/plain": texts},
    optional={
        "text/html": texts,
        "image/png": st.binary(min_size=1, max_size=50),
        "image/svg+xml": texts,
        "application/pdf": st.binary(min_size=1, max_size=50),
        "application/json": values.map(json.dumps),
        "application/vnd.plotly.v1+json": objects.map(json.dumps),
    },
)


@given(st.lists(st.tuples(bundles, offsets, offsets, objects, st.none() | objects), max_size=5))
def test_what_was_written_is_read_back(written: list[Any]) -> None:
    stream = b"".join(
        record(data, out, err, metadata=metadata, chart=chart)
        for data, out, err, metadata, chart in written
    )
    found = parsed(stream)
    assert found.dropped == 0
    assert list(found.items) == [
        Display(n + 1, *item)
        for n, item in enumerate(written)
        for item in [(item[1], item[2], item[0], item[3], item[4])]
    ]


@given(st.binary(max_size=400))
def test_garbage_never_raises(data: bytes) -> None:
    found = parsed(data)
    assert len(found.items) + found.dropped <= len(data)
    assert found.items or found.dropped or not data


@given(st.binary(max_size=200), bundles)
def test_a_bad_record_costs_itself_only(raw: bytes, data: dict[str, str | bytes]) -> None:
    found = parsed(framed(b"\xff" + raw) + record(data, 7))
    assert found == Displays((Display(2, 7, 0, data),), dropped=1)


@given(bundles, bundles, st.data())
def test_a_record_that_is_cut_is_dropped_once_it_cannot_grow(
    first: dict[str, str | bytes], second: dict[str, str | bytes], data: st.DataObject
) -> None:
    whole, last = record(first), record(second)
    cut = whole + last[: data.draw(st.integers(1, len(last) - 1))]
    assert [item.data for item in parsed(cut).items] == [first]
    assert parsed(cut).dropped == 1
    assert parsed(cut, whole=False).dropped == 0


@pytest.mark.parametrize(
    "name, value",
    [
        ("text", "x"),
        ("text/", "x"),
        ("../x", "x"),
        ("text/a b", "x"),
        ("text/html; charset=utf-8", "x"),
        ("text/" + "x" * 128, "x"),
        ("text/\u00e9", "x"),
        ("image/png", ""),
        ("image/png", "not base64"),
        ("image/png", "AAA"),
        ("image/png", "AA\u00e9="),
        ("application/json", "{"),
        ("application/json", "NaN"),
        ("application/json", "[1e999]"),
        ("application/vnd.vega.v5+json", "[" * 1_000),
        ("application/json", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)),
        ("text/plain", 3),
        ("text/plain", None),
        ("application/json", {"a": 1}),
    ],
)
def test_a_wrong_representation_is_left_out(name: str, value: Any) -> None:
    raw = json.dumps({"data": {name: value, "text/html": "x"}}).encode()
    assert only(framed(raw)).data == {"text/html": "x"}
    assert parsed(framed(json.dumps({"data": {name: value}}).encode())) == Displays((), 1)


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{}", b"[]", b"1", b"null", b'"x"', b'{"data": []}', b'{"data": {}}'),
        *(b'{"data": {"text/plain": "x"}', b'{"data": {"text/plain": "\xff"}}', b"\0" * 50),
        b'{"data": {"text/plain": "x"}, "metadata": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"data": {"text/plain": "x"}, "metadata": {"n": ' + b"9" * 5_000 + b"}}",
    ],
)
def test_a_wrong_record_is_dropped(raw: bytes) -> None:
    assert parsed(framed(raw)) == Displays((), dropped=1)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_numbers_that_json_lacks_cost_only_metadata_and_chart(number: bytes) -> None:
    raw = b'{"data": {"text/plain": "x"}, "metadata": {"a": 1}, "chart": {"y": [%s]}}' % number
    assert only(framed(raw)) == Display(1, 0, 0, {"text/plain": "x"})


def test_metadata_and_chart_that_are_no_objects_are_left_out() -> None:
    made = only(record({"text/plain": "x"}, metadata=[1], chart="x"))
    assert made == Display(1, 0, 0, {"text/plain": "x"})


def test_lone_surrogates_are_replaced() -> None:
    raw = rb'{"data": {"text/plain": "a\ud800"}, "chart": {"\udfff": ["\ud83d\ude00\udc00"]}}'
    assert only(framed(raw)) == Display(1, 0, 0, {"text/plain": "a?"}, {}, {"?": ["\U0001f600?"]})


def test_base64_may_be_in_lines() -> None:
    raw = json.dumps({"data": {"image/png": "AA\nAA\n"}}).encode()
    assert only(framed(raw)).data == {"image/png": b"\0\0\0"}


def test_records_and_representations_are_bounded() -> None:
    many = record({"text/plain": "x"}) * (MAX_COUNTED + 5)
    found = parsed(many)
    assert len(found.items) == MAX_RECORDS
    assert found.dropped == MAX_COUNTED - MAX_RECORDS
    wide = {f"text/x{n}": "x" for n in range(50)}
    assert len(only(record(wide)).data) == MAX_REPRESENTATIONS
    assert parsed(record({"text/plain": "x" * MAX_RECORD_BYTES})) == Displays((), dropped=1)


def test_the_structure_of_all_json_is_bounded_together() -> None:
    half = json.dumps([0] * (MAX_MEMBERS // 2))
    found = parsed(record({"application/json": half, "text/plain": "x"}) * 3)
    assert [len(item.data) for item in found.items] == [2, 1]
    assert parsed(
        framed(b'{"data": {"text/plain": "x"}, "metadata": {"n": [' + b"0," * 200_000 + b"0]}}")
    )
    wide = framed(b'{"data": {"text/plain": "x"}, "metadata": [' + b"[]," * 200_000 + b"0]}")
    assert parsed(wide) == Displays((), dropped=1)


def test_a_length_that_lies_reads_nothing_beyond_the_stream() -> None:
    asked: list[tuple[int, int]] = []
    data = b"\xff\xff\xff\xff" + b"\0" * 16 + png()

    def read(at: int, length: int) -> bytes:
        asked.append((at, length))
        return data[at : at + length]

    assert parse_displays(read, len(data)) == Displays((), dropped=1)
    assert asked == [(0, 20)]
