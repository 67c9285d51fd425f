# SPDX-License-Identifier: Apache-2.0
"""Counts made before parsing match a parser's result, wherever the text is cut."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.structure import LONG, Bounds, Structure, StructureRefusedError

SMALL = Bounds(containers=20, commas=30, depth=5, outside=400)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def made(value: Any) -> tuple[int, int]:
    """Count the lists and objects in a value, and their depth."""
    if not isinstance(value, dict | list):
        return 0, 0
    members: list[Any] = [*(value.values() if isinstance(value, dict) else value)]
    inside = [made(member) for member in members]
    return 1 + sum(count for count, _ in inside), 1 + max((deep for _, deep in inside), default=0)


def looked_at(text: bytes, cut: int = 1 << 20, bounds: Bounds | None = None) -> Structure:
    structure = Structure(bounds or Bounds())
    for start in range(0, len(text), cut):
        structure.feed(text[start : start + cut])
    return structure


@given(values, st.integers(1, 50), st.booleans())
def test_counts_and_depth_match_the_value(value: object, cut: int, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=not plain).encode("utf-8", "surrogatepass")
    found = looked_at(text, cut)
    assert (found.containers, found.deepest) == made(value)
    assert found.long == []


@pytest.mark.parametrize("before", ["", '["\\\\", "', '{"a\\"": "b\\\\\\"", "c": "'])
@pytest.mark.parametrize("inside", ["x", "\\\\", '\\"', "\\u00e9", "é", "[{,"])
@pytest.mark.parametrize("cut", [1 << 20, 1_000, 65_537])
def test_long_strings_are_located(before: str, inside: str, cut: int) -> None:
    start, content = (before or '"').encode(), (inside * LONG).encode()
    text = start + content + b'", "short"'
    found = looked_at(text, cut)
    assert found.long == [(len(start), len(start) + len(content))]


@pytest.mark.parametrize(
    "text, why",
    [
        (b"[" * 6, "5 levels"),
        (b'{"a":' * 6, "5 levels"),
        (b"[],{}," * 11, "20 lists and objects"),
        (b"[" + b"1," * 31, "30 commas"),
        (b'""' * 63, "124 quotes"),
        (b" " * 401, "400 bytes outside"),
        (b"1" * 401, "400 bytes outside"),
        (b"[]]", "more ends than beginnings"),
    ],
)
def test_text_over_a_bound_is_refused(text: bytes, why: str) -> None:
    for cut in (1, 7, 1_000):
        with pytest.raises(StructureRefusedError, match=why):
            looked_at(text, cut, SMALL)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_any_bytes_are_counted_or_refused(text: bytes, cut: int) -> None:
    with contextlib.suppress(StructureRefusedError):
        looked_at(text, cut, SMALL)


def prefixes_parsed(text: bytes | bytearray) -> tuple[int, int]:
    """Count what a parser that stops at the first mistake has made by then, at least."""
    made_of = made_deep = depth = 0
    within = escaped = False
    for byte in text:
        if within:
            escaped, within = byte == 92 and not escaped, byte != 34 or escaped
        elif byte == 92:
            break  # no parser continues here
        elif byte == 34:
            within = True
        elif byte in b"[{":
            made_of, depth = made_of + 1, depth + 1
            made_deep = max(made_deep, depth)
        elif byte in b"]}":
            depth -= 1
            if depth < 0:
                break
    return made_of, made_deep


PARTS = (b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b'\\"', b"\\\\", b'"a":', b"1", b"\xff")


@pytest.mark.fuzz
def test_a_parser_makes_no_more_of_a_text_than_was_counted() -> None:
    """Tries a hundred thousand texts; only accepted ones are compared."""
    chance = random.Random(13)
    accepted = valid = 0
    for _ in range(100_000):
        if chance.random() < 0.5:
            text = b"".join(chance.choices(PARTS, k=chance.randrange(60)))
        else:
            text = bytearray(json.dumps(_value(chance, 6)).encode())
            for _ in range(chance.randrange(3)):
                text[chance.randrange(len(text))] = chance.choice(b'[]{},:"\\1 ')
        try:
            found = looked_at(bytes(text), chance.randrange(1, 40), SMALL)
        except StructureRefusedError:
            continue
        accepted += 1
        containers, deepest = prefixes_parsed(text)
        assert containers <= found.containers <= SMALL.containers, text
        assert deepest <= found.deepest <= SMALL.depth, text
        try:
            # As lists, which keep duplicate names.
            value = json.loads(text, object_pairs_hook=lambda pairs: [value for _, value in pairs])
        except (ValueError, RecursionError):
            continue
        valid += 1
        assert (found.containers, found.deepest) == made(value), text
    assert accepted > 30_000
    assert valid > 5_000


def _value(chance: random.Random, depth: int) -> object:
    kind = chance.randrange(5) if depth else 0
    if kind < 2:
        return "".join(chance.choices('ab"\\[]{},é', k=chance.randrange(6)))
    count = chance.randrange(4)
    if kind == 2:
        return chance.randrange(1_000)
    if kind == 3:
        return [_value(chance, depth - 1) for _ in range(count)]
    return {f"k{number}": _value(chance, depth - 1) for number in range(count)}
