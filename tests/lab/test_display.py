# SPDX-License-Identifier: Apache-2.0
"""The progress output, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from lab.display import QUIET_SECONDS, Display
from lab.events import Ended, Line, Over, Started, Up


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_lines_carry_the_seconds_since_the_start(clock: Clock) -> None:
    out = io.StringIO()
    display = Display(out, clock)
    clock.now = 75.4
    display.say("hello")
    assert out.getvalue() == "lab   75 s | hello\n"


def test_terminal_control_characters_are_removed(clock: Clock) -> None:
    out = io.StringIO()
    Display(out, clock).event("m", Line("\x1b[2Jred\x07" + "x" * 500))
    assert "\x1b" not in out.getvalue()
    assert len(out.getvalue()) < 200


def test_a_log_gets_a_detail_at_intervals(clock: Clock) -> None:
    out = io.StringIO()
    display = Display(out, clock)
    display.detail("libkrun", "Compiling a")
    clock.now = QUIET_SECONDS
    display.detail("libkrun", "Compiling b")
    display.detail("libkrun", "Compiling c")
    display.detail("base", "extracting")
    assert [line.split("| ")[1] for line in out.getvalue().splitlines()] == [
        "libkrun: Compiling b",
        "base: extracting",
    ]


def test_a_terminal_shows_details_in_one_line(clock: Clock) -> None:
    out = Terminal()
    display = Display(out, clock)
    display.detail("libkrun", "Compiling a")
    display.detail("libkrun", "")
    display.detail("libkrun", "Compiling b")
    display.say("done")
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\r\033[Klab    0 s | done\n")


def test_events_are_shown_and_repeated_lines_only_once(clock: Clock) -> None:
    out = io.StringIO()
    display = Display(out, clock)
    events = (Up(5), Started("a", 60), Line("x"), Line("x"), Line(" "), Ended("a", 1, 2), Over())
    for event in events:
        display.event("m", event)
    assert [line.split("| ")[1] for line in out.getvalue().splitlines()] == [
        "m is up, 5 s after its kernel started",
        "a begins and has 60 s",
        "x",
        "a ended with exit code 1 after 2 s",
        "m: all jobs are over",
    ]
