# SPDX-License-Identifier: Apache-2.0
"""Exact replacement in a text: one place or all, and the hints when the old text does not fit."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import FileRefused, InvalidArgument
from waggle.domain.files.edit import Edited, replace_exactly


def edit(text: str, old: str, new: str, *, replace_all: bool = False) -> Edited:
    return replace_exactly(text.encode(), old, new, replace_all=replace_all)


def refusal(text: str, old: str, new: str = "new") -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        edit(text, old, new)
    return caught.value


def test_a_unique_place_is_replaced_and_shown_as_a_diff() -> None:
    text = "".join(f"line {n}\n" for n in range(1, 10))
    edited = edit(text, "line 5\n", "LINE FIVE\nmore\n")
    assert edited.data.decode() == text.replace("line 5\n", "LINE FIVE\nmore\n")
    assert edited.replacements == 1
    assert edited.diff.splitlines() == [
        *("@@ -3,5 +3,6 @@", " line 3", " line 4", "-line 5", "+LINE FIVE", "+more"),
        *(" line 6", " line 7"),
    ]


def test_several_places_are_replaced_only_with_replace_all() -> None:
    error = refusal("a\nb\na\n", "a")
    assert "2 times (lines 1, 3)" in error.message
    assert edit("a\nb\na\n", "a", "c", replace_all=True).data == b"c\nb\nc\n"
    assert "2 times" in refusal("aaa", "aa").message  # overlapping matches are ambiguous too


def test_crlf_line_ends_are_kept_although_models_read_and_write_lf() -> None:
    text = "one\r\ntwo\r\nthree\r\n"
    assert edit(text, "two", "2\n2.5").data == b"one\r\n2\r\n2.5\r\nthree\r\n"
    assert edit(text, "one\ntwo\n", "1\n").data == b"1\r\nthree\r\n"
    assert edit(text, "one\r\n", "1\n").data == b"1\ntwo\r\nthree\r\n", "CR is meant"
    assert edit("a\r\nb\n", "b", "c\nd").data == b"a\r\nc\nd\n", "lines differ: as it is"


def test_a_missing_text_is_refused_with_the_likely_reason() -> None:
    assert "CRLF" in refusal("one\r\ntwo\r\nthree\n", "one\ntwo").hint
    assert "LF" in refusal("one\ntwo\n", "one\r\ntwo").hint
    assert "white space" in refusal("  x = 1\n", "\tx = 1").hint
    near = refusal("a\ndef main(argv):\n    return 1\n", "def main(args):\n    return 1")
    assert near.hint == "The nearest text is at line 2:\ndef main(argv):\n    return 1"
    assert "Nothing in the file" in refusal("abc", "zzzzzz").hint


@pytest.mark.parametrize("data", [b"a\0b", b"\xff a"])
def test_a_file_that_is_not_text_is_refused(data: bytes) -> None:
    with pytest.raises(FileRefused):
        replace_exactly(data, "a", "b", replace_all=False)


def test_empty_equal_and_invalid_texts_are_refused() -> None:
    assert "empty" in refusal("a", "").message
    assert "the same" in refusal("a", "a", "a").message
    assert "Unicode" in refusal("a", "a", "\ud800").message


def test_a_hint_and_a_diff_are_bounded_in_size_and_time() -> None:
    hostile = "\n".join("ab" * 100 + str(n % 7) for n in range(40_000))
    started = time.monotonic()
    refusal(hostile, "ba" * 100)
    assert edit(hostile, "ab", "xyz", replace_all=True).diff.startswith("[the change spans")
    assert time.monotonic() - started < 20


@given(st.text("ab\r\n", max_size=30), st.text("ab\n", min_size=1, max_size=3), st.text("c"))
def test_replace_all_does_the_same_as_str_replace(text: str, old: str, new: str) -> None:
    mixed = "\r\n" not in text or "\n" in text.replace("\r\n", "")
    if mixed and old in text and old != new:
        edited = edit(text, old, new, replace_all=True)
        assert edited.data.decode() == text.replace(old, new)
        assert edited.replacements == text.count(old)
