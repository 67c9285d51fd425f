# SPDX-License-Identifier: Apache-2.0
"""The parsers of guest paths and file modes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.files import MAX_PATH_BYTES, at_home, parse_mode, parse_path
from waggle.domain.programs import HOME


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
        ("./a/././b.txt", f"{HOME}/a/b.txt"),
        ("./~me", f"{HOME}/~me"),
        ("file:///tmp/a", "/tmp/a"),
        ("sandbox:/mnt/data/a", "/mnt/data/a"),
        ("file:x", f"{HOME}/file:x"),
        ("./C:\\x", f"{HOME}/C:\\x"),
        ("a\nb", f"{HOME}/a\nb"),
        ("ä", f"{HOME}/ä"),
    ],
)
def test_paths_are_parsed_as_guest_paths(text: str, path: str) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "/\0", "\ud800", "a\udfffb"])
def test_a_malformed_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_path(text)


@pytest.mark.parametrize("text", ["C:\\Users\\me\\a.csv", "d:\\a", "C:/Users/me/a.csv"])
def test_a_windows_path_is_refused_with_a_guest_path(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Windows") as refused:
        parse_path(text)
    assert HOME in refused.value.hint


@pytest.mark.parametrize("mode", ["+x", "a+x"])
def test_plus_x_means_mode_0755(mode: str) -> None:
    assert parse_mode(mode) == 0o755


def test_the_limit_of_a_path_is_in_bytes_and_counts_the_home_directory() -> None:
    assert parse_path("/" + "x" * (MAX_PATH_BYTES - 1))
    with pytest.raises(InvalidArgument):
        parse_path("/" + "x" * MAX_PATH_BYTES)
    with pytest.raises(InvalidArgument):
        parse_path("/" + "ä" * (MAX_PATH_BYTES // 2 + 1))
    with pytest.raises(InvalidArgument):
        parse_path("x" * (MAX_PATH_BYTES - len(HOME)))


@given(st.text())
def test_a_parsed_path_is_absolute_encodable_and_parses_to_itself(text: str) -> None:
    try:
        path = parse_path(text)
    except InvalidArgument:
        return
    assert path.startswith(("/", "~/"))
    assert at_home(path, "/home/me").startswith("/")
    assert "\0" not in path
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert parse_path(path) == path


@pytest.mark.parametrize(
    "text, path",
    [
        ("~", "/home/me/"),
        ("~/", "/home/me/"),
        ("~/a b/c", "/home/me/a b/c"),
        ("~//etc/x", "/home/me/etc/x"),
        ("~/../x", "/home/me/../x"),
        ("$HOME", "/home/me/"),
        ("$HOME/x", "/home/me/x"),
        ("${HOME}/x", "/home/me/x"),
        ("./~/x", f"{HOME}/~/x"),
        ("a/~", f"{HOME}/a/~"),
        ("~$draft.docx", f"{HOME}/~$draft.docx"),
        ("$HOMEX/x", f"{HOME}/$HOMEX/x"),
        ("/~/x", "/~/x"),
    ],
)
def test_a_tilde_is_replaced_by_the_home_directory_of_the_guest(text: str, path: str) -> None:
    assert at_home(parse_path(text), "/home/me") == path


@pytest.mark.parametrize("text", ["~root", "~root/x", "~sandbox/a", "~tmp"])
def test_the_home_of_another_user_is_refused_with_an_escaped_form(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_path(text)
    assert f"./{text.partition('/')[0]} " in refused.value.hint


@given(st.integers(0, 0o7777))
def test_a_mode_is_octal(mode: int) -> None:
    assert parse_mode(f"{mode:o}") == mode
    assert parse_mode(f"{mode:04o}") == mode
    assert parse_mode(f"0o{mode:o}") == mode


@pytest.mark.parametrize(
    "given_mode, mode",
    [
        (755, 0o755),
        (644, 0o644),
        (600, 0o600),
        (1777, 0o1777),
        (4755, 0o4755),
        (0, 0),
        (493, 0o755),
        (420, 0o644),
        (384, 0o600),
        (436, 0o664),
        (511, 0o777),
        (448, 0o700),
    ],
)
def test_a_number_is_understood_as_the_intended_mode(given_mode: int, mode: int) -> None:
    """A number is read as octal digits, or as the decimal form that JSON gives 0o755."""
    assert parse_mode(given_mode) == mode


@pytest.mark.parametrize("mode", [-1, 8, 999, 10_000, 77777])
def test_a_number_that_is_not_a_mode_is_refused(mode: int) -> None:
    with pytest.raises(InvalidArgument, match="octal"):
        parse_mode(mode)


@given(st.integers())
def test_any_number_is_a_mode_or_refused(mode: int) -> None:
    try:
        assert 0 <= parse_mode(mode) <= 0o7777
    except InvalidArgument:
        return


@pytest.mark.parametrize(
    "text",
    ["", "8", "u+x", "0x1ff", "-1", "+644", "064444", " 644", "644\n", "rw-", "\u0661", "\u00b2"],
)
def test_a_malformed_mode_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="octal"):
        parse_mode(text)
