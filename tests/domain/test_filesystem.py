# SPDX-License-Identifier: Apache-2.0
"""Paths and modes: what a guest can be asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.execution import HOME
from waggle.domain.filesystem import MAX_PATH_BYTES, parse_mode, parse_path


@pytest.mark.parametrize(
    "text, path",
    [
        ("/", "/"),
        ("/etc/passwd", "/etc/passwd"),
        ("a.txt", f"{HOME}/a.txt"),
        ("a/b c", f"{HOME}/a/b c"),
        (".", f"{HOME}/."),
        ("../x", f"{HOME}/../x"),
        ("/a/../b", "/a/../b"),
        ("-rf", f"{HOME}/-rf"),
        ("a\nb", f"{HOME}/a\nb"),
        ("ä", f"{HOME}/ä"),
    ],
)
def test_paths_are_the_guests_own(text: str, path: str) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "/\0", "\ud800", "a\udfffb"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_path(text)


def test_the_limit_of_a_path_is_in_bytes_and_counts_the_home_directory() -> None:
    assert parse_path("/" + "x" * (MAX_PATH_BYTES - 1))
    with pytest.raises(InvalidArgument):
        parse_path("/" + "x" * MAX_PATH_BYTES)
    with pytest.raises(InvalidArgument):
        parse_path("/" + "ä" * (MAX_PATH_BYTES // 2 + 1))
    with pytest.raises(InvalidArgument):
        parse_path("x" * (MAX_PATH_BYTES - len(HOME)))


@given(st.text())
def test_a_path_is_absolute_encodable_and_parsed_once(text: str) -> None:
    try:
        path = parse_path(text)
    except InvalidArgument:
        return
    assert path.startswith("/")
    assert "\0" not in path
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert parse_path(path) == path


@given(st.integers(0, 0o7777))
def test_a_mode_is_octal(mode: int) -> None:
    assert parse_mode(f"{mode:o}") == mode
    assert parse_mode(f"{mode:04o}") == mode


@pytest.mark.parametrize(
    "text", ["", "8", "0o644", "-1", "+644", "06444", " 644", "644\n", "rw-", "\u0661", "\u00b2"]
)
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(InvalidArgument, match="octal"):
        parse_mode(text)
