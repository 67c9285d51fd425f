# SPDX-License-Identifier: Apache-2.0
"""Commands and their limits, how an output is shown, and the parsers of code and seconds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument, TooLarge, WaggleError
from waggle.domain.programs import (
    MAX_CODE_BYTES,
    MAX_HEADER_BYTES,
    MAX_STDIN_BYTES,
    Command,
    Output,
    parse_code,
    parse_seconds,
)


def command(**changes: object) -> Command:
    values: dict[str, object] = {"argv": ("true",), "timeout": 1.0, "output_limit": 100}
    return Command(**(values | changes))  # pyright: ignore[reportArgumentType]


# Command


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"argv": ()}, InvalidArgument),
        ({"argv": ("a\0b",)}, InvalidArgument),
        ({"argv": ("\ud800",)}, InvalidArgument),
        ({"cwd": "/\0"}, InvalidArgument),
        ({"cwd": "/\udcff"}, InvalidArgument),
        ({"env": {"": ""}}, InvalidArgument),
        ({"env": {"A=B": ""}}, InvalidArgument),
        ({"env": {"A\0": ""}}, InvalidArgument),
        ({"env": {"A": "\0"}}, InvalidArgument),
        ({"env": {"\ud800": ""}}, InvalidArgument),
        ({"argv": ("x" * MAX_HEADER_BYTES,)}, TooLarge),
        ({"argv": ("ä" * (MAX_HEADER_BYTES // 2),)}, TooLarge),
        ({"env": {f"K{i}": "x" * 1_000 for i in range(200)}}, TooLarge),
        ({"stdin": b"x" * (MAX_STDIN_BYTES + 1)}, TooLarge),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_command_that_could_never_run_is_refused(
    changes: dict[str, object], error: type[WaggleError]
) -> None:
    with pytest.raises(error) as refused:
        command(**changes)
    assert refused.value.hint


def test_a_command_at_its_limits_is_accepted() -> None:
    fixed = len("/tmp") + 1 + 1  # the directory, and one terminating byte for each of two words
    command(argv=("x" * (MAX_HEADER_BYTES - fixed),), stdin=b"x" * MAX_STDIN_BYTES, cwd="/tmp")
    with pytest.raises(TooLarge):
        command(argv=("x" * (MAX_HEADER_BYTES - fixed + 1),), cwd="/tmp")


def test_words_may_hold_any_text_that_a_program_can_receive() -> None:
    command(argv=("printf", "-n", "", "a b", "$(id)", "'\"\\\n"), env={"A": "=", "B.C": "\n"})


# Output


def test_a_complete_output_is_shown_unchanged() -> None:
    assert Output(b"hello", total=5).text() == "hello"
    assert Output(b"hel", b"lo", 5).text() == "hello"
    assert Output(b"").text() == ""


def test_without_a_total_nothing_was_cut() -> None:
    whole = Output(b"abc", b"de")
    assert (whole.total, whole.dropped, whole.text()) == (5, 0, "abcde")


def test_a_cut_states_how_many_bytes_it_removed() -> None:
    cut = Output(b"head", b"tail", 1_000)
    assert cut.dropped == 992
    assert cut.text() == "head\n[... 992 of 1000 bytes cut ...]\ntail"


def test_bytes_that_are_not_text_become_replacement_characters() -> None:
    assert Output(b"a\xff\xfeb").text() == "a\ufffd\ufffdb"
    assert Output(b"\xff", b"\xff", 10).text() == "\ufffd\n[... 8 of 10 bytes cut ...]\n\ufffd"


def test_a_character_split_between_head_and_tail_is_joined() -> None:
    assert Output("ä".encode()[:1], "ä".encode()[1:], 2).text() == "ä"


@given(st.text(), st.integers(0, 40), st.integers(0, 40))
def test_a_cut_through_a_character_drops_all_of_it(text: str, head: int, tail: int) -> None:
    data = text.encode("utf-8", "replace")
    text = data.decode()
    if head + tail >= len(data):
        assert Output(data[:head], data[head:], len(data)).text() == text
        return
    shown = Output(data[:head], data[len(data) - tail :] if tail else b"", len(data)).text()
    before, after = shown.split(f"\n[... {len(data) - head - tail} of {len(data)} bytes cut ...]\n")
    assert text.startswith(before)
    assert text.endswith(after)
    assert head - len(before.encode()) <= 3
    assert tail - len(after.encode()) <= 3


@given(st.binary(max_size=20), st.binary(max_size=20), st.integers(0, 100))
def test_any_bytes_can_be_shown(head: bytes, tail: bytes, total: int) -> None:
    kept = Output(head, tail, total)
    assert kept.dropped == max(0, total - len(head) - len(tail))
    kept.text().encode("utf-8")


# Code


@given(st.text())
def test_code_is_encoded_without_loss_or_refused(code: str) -> None:
    try:
        data = parse_code(code)
    except InvalidArgument:
        assert not code.strip() or "\0" in code or any("\ud800" <= c <= "\udfff" for c in code)
    else:
        assert data.decode("utf-8") == code


@pytest.mark.parametrize("code", ["", " ", "\n\t\r ", "a\0", "\ud800", "x\udfff"])
def test_code_that_cannot_run_is_refused(code: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_code(code)
    assert refused.value.hint


def test_the_limit_of_code_is_in_bytes() -> None:
    assert len(parse_code("ä" * (MAX_CODE_BYTES // 2))) == MAX_CODE_BYTES
    with pytest.raises(TooLarge, match="512000") as refused:
        parse_code("ä" * (MAX_CODE_BYTES // 2) + "x")
    assert "write_file" in refused.value.hint


# Seconds


def test_no_seconds_mean_the_default() -> None:
    assert parse_seconds(None, 30, 300) == 30


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_seconds_are_in_range_or_refused(value: float) -> None:
    if 0 < value <= 300:
        assert parse_seconds(value, 30, 300) == value
    else:
        with pytest.raises(InvalidArgument, match="at most 300"):
            parse_seconds(value, 30, 300)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 0, 300.0000001])
def test_seconds_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgument):
        parse_seconds(value, 30, 300)


def test_an_integer_beyond_any_float_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidArgument):
        parse_seconds(10**5000, 30, 300)
