# SPDX-License-Identifier: Apache-2.0
"""Text as a terminal would show it: rewritten lines, colours, repeated lines."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.programs import Output
from waggle.domain.programs.text import Insert, cleaned, last_line, printed

BAR = "\r  0%|          | 0/2\r 50%|#####     | 1/2\r100%|##########| 2/2"


def nested() -> str:
    """Return what tqdm prints for a bar within a bar."""
    parts: list[str] = []
    for outer in range(3):
        parts.append(f"\router {outer}")
        parts += [f"\n\rinner {inner}\x1b[A" for inner in range(4)]
    return "".join(parts) + "\n\n"


@pytest.mark.parametrize(
    "printed, shown",
    [
        ("", ""),
        ("plain\ttext\n\n  x  \n", "plain\ttext\n\n  x  \n"),
        ("\x1b[31mred\x1b[0m \x1b[1;38;5;4mblue\x1b[m\n", "red blue\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        (BAR, "100%|##########| 2/2"),
        (BAR + "\ndone\n", "100%|##########| 2/2\ndone\n"),
        (nested(), "outer 2\ninner 3\n"),
        ("long line\rshort", "shortline"),
        ("long line\r\x1b[Kshort", "short"),
        ("long line\x1b[2K\rshort", "short"),
        ("bar 10%\rdone     \nx", "done\nx"),
        ("one\ntwo\x1b[1A\x1b[1GTHREE", "THREE\ntwo"),
        ("one\ntwo\nthree\x1b[2A\r\x1b[J", ""),
        ("abc\b\bX", "aXc"),
        ("x\by\bz", "z"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Btext\x1b=\x1b>\x0f\x07", "text"),
        ("\x1b[?25lhidden cursor\x1b[?25h", "hidden cursor"),
        ("cut \x1b[3", "cut "),
        ("cut \x1b", "cut "),
        ("\x1b[99A\x1b[99Btop", "top"),
        ("\x1b[9999Cnot far", "not far"),
        ("a\0b\x01", "a\0b\x01"),
    ],
)
def test_text_is_what_a_terminal_shows_in_the_end(printed: str, shown: str) -> None:
    assert cleaned(printed) == shown


def test_lines_that_repeat_are_shown_once_with_a_count() -> None:
    line = "w.py:3: UserWarning: low contrast\n"
    assert cleaned(f"a\n{line * 57}b\n") == f"a\n{line}[the line above was printed 57 times]\nb\n"
    pair = line + "  warnings.warn('low contrast')\n"
    times = "[the 2 lines above were printed 5 times]"
    assert cleaned(pair * 5 + "end") == f"{pair}{times}\nend"
    assert cleaned(line * 3) == line * 3
    assert cleaned(pair * 3) == pair * 3
    assert cleaned("0\n" * 5) == "0\n" * 5
    assert cleaned("\n" * 90) == "\n[the line above was printed 90 times]\n"


def test_the_last_line_of_progress_is_its_last_state() -> None:
    assert last_line(BAR) == "100%|##########| 2/2"
    assert last_line("done\n\n \x1b[0m\n") == "done"
    assert last_line("\x1b[31m") == ""


def test_inserts_are_where_they_belong() -> None:
    whole = Output(b"one\ntwo")
    inserts = [Insert(0, "A"), Insert(4, "B\n"), Insert(6, "C"), Insert(99, "D\nE")]
    assert printed(whole, inserts) == "A\none\nB\ntw\nC\no\nD\nE\n"
    assert printed(whole) == "one\ntwo"


def test_inserts_in_a_cut_are_shown_at_the_cut() -> None:
    cut = Output(b"head", b"tail", 100)
    inserts = [Insert(4, "A"), Insert(50, "B"), Insert(95, "C"), Insert(96, "D"), Insert(98, "E")]
    mark = "\n[... 92 of 100 bytes cut ...]\n"
    assert printed(cut, inserts) == f"head\nA\n{mark}B\nC\nD\nta\nE\nil"


def test_an_insert_splits_no_character() -> None:
    data = "aéb".encode()
    assert printed(Output(data), [Insert(2, "X")]) == "a\nX\néb"
    assert printed(Output(data[:2], data[2:], 50)) == "a\n[... 46 of 50 bytes cut ...]\nb"


@given(
    st.text(alphabet="ab\néß😀", max_size=40), st.lists(st.integers(0, 200), max_size=4), st.data()
)
def test_printing_loses_no_insert_and_no_text(
    text: str, places: list[int], data: st.DataObject
) -> None:
    raw = text.encode()
    head = data.draw(st.integers(0, len(raw)))
    lost = data.draw(st.integers(0, 50))
    output = Output(raw[:head], raw[head:], len(raw) + lost)
    inserts = [Insert(at, f"<{n}>") for n, at in enumerate(sorted(places))]
    shown = printed(output, inserts)
    marks = re.findall(r"<\d>", shown)
    assert marks == [insert.text for insert in inserts]
    if not lost and len(set(text.split("\n"))) == text.count("\n") + 1:
        assert re.sub(r"\n?<\d>\n", "", shown).replace("\n", "") == text.replace("\n", "")


terminal = st.lists(
    st.sampled_from(["a", "b ", "\n", "\r", "\b", "\x1b[K", "\x1b[2K", "\x1b[A", "\x1b[3B"])
    | st.sampled_from(
        ["\x1b[J", "\x1b[9C", "\x1b[2D", "\x1b[5G", "\x1b[31m", "\x1b", "\x1b]0;x\x07"]
    )
    | st.text(max_size=3),
    max_size=60,
).map("".join)


@given(terminal)
def test_cleaned_text_has_no_sequences_and_is_never_longer(text: str) -> None:
    shown = cleaned(text)
    assert len(shown) <= len(text)
    assert not set(shown) & set("\x1b\r\b\x07")
    assert "\n" not in last_line(text)


@given(st.text(st.characters(exclude_characters="\x07\x08\x0e\x0f\r\x1b"), max_size=80))
def test_plain_text_stays(text: str) -> None:
    lines = text.split("\n")
    if len(lines) == len(set(lines)):
        assert cleaned(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "x\b",
        "\x1b[2K\r",
        "x\n\x1b[A",
        "\n\x1b[64A",
        "\x1b]",
        "\x1b[1K",
        "a\r",
        "a\nb\n",
        "\x1b[J",
        "\n",
    ],
)
def test_the_work_grows_with_the_length_alone(piece: str) -> None:
    def seconds(size: int) -> float:
        text = "y" * size + piece * (size // len(piece))
        began = time.process_time()
        cleaned(text)
        return time.process_time() - began

    assert seconds(200_000) < 40 * max(seconds(20_000), 0.005)
