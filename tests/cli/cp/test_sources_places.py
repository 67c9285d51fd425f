# SPDX-License-Identifier: Apache-2.0
"""The words of `waggle cp` as places, and the names of copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from waggle.cli.cp.sources import Download, Remote, Upload, downloaded_to, place, plan, uploaded_to
from waggle.domain.errors import InvalidArgument


@pytest.mark.parametrize(
    "word, expected",
    [
        ("box:", Remote("box", "")),
        ("box:a.txt", Remote("box", "a.txt")),
        ("box:/tmp/a:b", Remote("box", "/tmp/a:b")),
        ("a.txt", Path("a.txt")),
        ("./a:b", Path("a:b")),
        ("/tmp/a:b", Path("/tmp/a:b")),
        (".", Path()),
    ],
)
def test_a_colon_before_any_slash_names_an_environment(word: str, expected: object) -> None:
    assert place(word) == expected


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a"],
        ["box:a"],
        ["a", "b"],
        ["box:a", "box:b"],
        ["a", "box:b", "c"],
        ["", "b:c"],
        [":a", "b"],
        ["a", "box:b", "box:c"],
    ],
)
def test_words_that_are_no_copy_in_or_out_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        plan(words)


def test_the_last_word_is_the_destination() -> None:
    assert plan(["a", "b", "box:c"]) == Upload((Path("a"), Path("b")), Remote("box", "c"))
    there = (Remote("box", "a"), Remote("other", "b"))
    assert plan(["box:a", "other:b", "c"]) == Download(there, Path("c"))


@pytest.mark.parametrize(
    "path, into, expected",
    [
        ("", True, (".", "a")),
        ("", False, (".", "a")),
        ("/", False, ("/", "a")),
        ("b", True, ("b", "a")),
        ("b", False, (".", "b")),
        ("/tmp/b/", False, ("/tmp", "b")),
        ("c/..", False, ("c/..", "a")),
    ],
)
def test_the_name_of_an_upload(path: str, into: bool, expected: tuple[str, str]) -> None:
    assert uploaded_to(Remote("box", path), "a", into=into) == expected


@pytest.mark.parametrize(
    "path, into, expected",
    [
        ("/x/a", True, "here/a"),
        ("/x/a", False, "here"),
        ("/x/a/", True, "here/a"),
        ("", True, "here"),
        ("/", True, "here"),
        ("..", True, "here"),
        ("a/..", True, "here"),
        ("a/.", True, "here"),
    ],
)
def test_the_name_of_a_download(path: str, into: bool, expected: str) -> None:
    assert downloaded_to(Path("here"), Remote("box", path), into=into) == Path(expected)
