# SPDX-License-Identifier: Apache-2.0
"""The description of what is near a path that does not exist."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.files import MAX_PARENTS, FileEntry, Listing, describe_nearest, parents

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def directory(path: str, *names: str, truncated: bool = False) -> Listing:
    entries = (FileEntry(n.rstrip("/"), 1, n.endswith("/"), False, 0o644, NOW) for n in names)
    return Listing(path, tuple(entries), truncated)


def test_parents_are_listed_from_the_nearest_to_the_root() -> None:
    assert parents("/a/b/c.txt") == ["/a/b", "/a", "/"]
    assert parents("/a/") == ["/"]
    assert parents("/") == []
    deep = parents("/x" * 100)
    assert len(deep) == MAX_PARENTS + 1
    assert deep[-1] == "/"


@pytest.mark.parametrize(
    "path, listing, words",
    [
        ("/h/a.txt", directory("/h", "b.csv", "src/"), "/h has b.csv, src/."),
        ("/h/x/a.txt", directory("/h"), "/h is empty."),
        (
            "/h/Data.csv",
            directory("/h", "data.csv", "x"),
            "Did you mean /h/data.csv? /h has data.csv, x.",
        ),
        ("/h/scr/a.py", directory("/h", "src/"), "Did you mean /h/src? /h has src/."),
        ("/m/d/s.csv", directory("/h", "s.csv"), "Did you mean /h/s.csv? /h has s.csv."),
        (
            "/h/caf\\xe9",
            directory("/h", "caf\\xe9"),
            "caf\\xe9 in /h has a name that is no UTF-8: rename it with a program, or have one "
            "read it.",
        ),
        ("/h/a", directory("/h", "b\n\x1b[2J"), "/h has b??[2J."),
    ],
)
def test_the_nearest_directory_is_described(path: str, listing: Listing, words: str) -> None:
    assert describe_nearest(path, listing) == words


@pytest.mark.parametrize("path", ["/h/link", "/h/link/a.txt"])
def test_a_dangling_link_is_described_as_one(path: str) -> None:
    link = FileEntry("link", 1, False, True, 0o777, NOW)
    home = Listing("/h", (link,), False)
    assert describe_nearest(path, home) == "/h/link is a link to what is not there."
    assert "has link" in describe_nearest("/mnt/link", home), "the home has another"


@pytest.mark.parametrize("truncated, rest", [(False, "and 8 others."), (True, "and 8 or more ")])
def test_a_long_directory_is_shortened_with_a_count(truncated: bool, rest: str) -> None:
    names = [f"{number:02}" for number in range(20)]
    words = describe_nearest("/h/zzz", directory("/h", *names, truncated=truncated))
    assert words.startswith("/h has 00, 01, ")
    assert "11" in words
    assert "12" not in words
    assert rest in words


@given(st.text(min_size=1, max_size=3_000), st.lists(st.text(max_size=300), max_size=30))
def test_any_names_fit_on_one_short_printable_line(path: str, names: list[str]) -> None:
    words = describe_nearest(f"/{path}", directory("/h", *(name or "x" for name in names)))
    assert words.isprintable()
    assert len(words) < 1_800
