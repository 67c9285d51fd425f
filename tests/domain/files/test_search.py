# SPDX-License-Identifier: Apache-2.0
"""The meaning of globs, and the searches that are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.files.search import (
    SearchQuery,
    check_excludes,
    escaped,
    glob_below,
    glob_expression,
)


@pytest.mark.parametrize(
    "glob, fits, does_not",
    [
        ("*.py", ["a.py", "d/a.py", ".py"], ["a.pyc", "a.py/b"]),
        ("a?c", ["abc", "d/a.c"], ["ac", "a/c"]),
        ("src/*.py", ["src/a.py"], ["a/src/a.py", "src/d/a.py"]),
        ("src/**/a", ["src/a", "src/x/y/a"], ["src/xa", "a"]),
        ("src/**", ["src/x/y"], ["src", "xsrc/a"]),
        ("[!ab]c", ["cc"], ["ac", "bc"]),
        ("[ab]", ["a", "d/b"], ["c", "ab"]),
        ("*.{js,ts}", ["a.js", "a.ts"], ["a.jsts", "a.{js,ts}"]),
        ("{a", ["{a"], ["a"]),
        ("a+(b).c|d^$", ["a+(b).c|d^$"], ["aab.c", "d^$"]),
        ("./src/*.py", ["src/a.py"], ["a/src/a.py"]),
        ("node_modules/", ["node_modules", "x/node_modules"], ["node_modules/x"]),
    ],
)
def test_globs_mean_the_same_as_in_shells(glob: str, fits: list[str], does_not: list[str]) -> None:
    expression = re.compile(glob_expression([glob]))
    assert [path for path in (*fits, *does_not) if expression.search(path)] == fits


@pytest.mark.parametrize(
    "glob, path, meant",
    [
        ("/h/src/*.py", "/h", "src/*.py"),
        ("/h/src/*.py", "/h/", "src/*.py"),
        ("/a.py", "/", "a.py"),
        ("/home/*.py", "/h", "/home/*.py"),
    ],
)
def test_a_glob_may_begin_with_the_searched_directory(glob: str, path: str, meant: str) -> None:
    assert glob_below(glob, path) == meant


def test_a_match_of_one_of_several_globs_is_enough() -> None:
    expression = glob_expression(["*.py", "d/*"])
    assert [p for p in ("a.py", "d/x", "e/x") if re.search(expression, p)] == ["a.py", "d/x"]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_escaped_text_matches_only_itself(text: str) -> None:
    assert re.fullmatch(escaped(text), text)
    assert not re.fullmatch(escaped(text), f"{text}x")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"name": ""},
        {"name": "a\0"},
        {"content": "\ud800"},
        {"content": "a\nb"},
        {"content": "x" * 1_001},
        {"name": "*", "max_results": 0},
        {"name": "*", "context_lines": 11},
    ],
)
def test_an_unusable_search_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SearchQuery("/tmp", **arguments)  # pyright: ignore[reportArgumentType] # its fields
    assert refused.value.hint


def test_excludes_are_limited_and_empty_ones_are_ignored() -> None:
    assert check_excludes(["", "/", "a"]) == ("a",)
    with pytest.raises(InvalidArgument, match="more than 50"):
        check_excludes(["a"] * 51)
