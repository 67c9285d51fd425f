# SPDX-License-Identifier: Apache-2.0
"""Parsing the outer machine's events, including nonsense."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.events import Beat, Ended, Event, Line, Over, Progress, Started, Up, parse


@pytest.mark.parametrize(
    "line, event",
    [
        ('{"event": "up", "seconds": 4.2}', Up(4.2)),
        ('{"event": "start", "job": "a", "seconds": 60}', Started("a", 60.0)),
        ('{"event": "line", "text": "hello"}', Line("hello")),
        ('{"event": "end", "job": "a", "code": 1, "seconds": 3}', Ended("a", 1, 3.0)),
        ('{"event": "beat"}', Beat()),
        ('{"event": "over"}', Over()),
    ],
)
def test_every_event_is_parsed(line: str, event: Event) -> None:
    assert parse(line.encode()) == event


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[1]",
        b'{"event": "up"}',
        b'{"event": "up", "seconds": "4"}',
        b'{"event": "end", "job": "a", "code": "1", "seconds": 3}',
        b'{"event": "new"}',
        b'{"event": "line", "te',
        b"\xff",
    ],
)
def test_a_line_that_is_no_event_gives_none(line: bytes) -> None:
    assert parse(line) is None


@given(st.recursive(st.none() | st.text() | st.integers(), lambda c: st.dictionaries(st.text(), c)))
def test_any_json_is_accepted(value: object) -> None:
    parse(json.dumps(value).encode())
    parse(json.dumps({"event": value}).encode())


def test_progress_knows_running_and_ended_jobs() -> None:
    progress = Progress()
    for event in (Up(1.0), Started("a", 9.0), Line("x"), Ended("a", 0, 2.0), Started("b", 9.0)):
        progress.take(event)
    assert progress.up
    assert progress.running == "b"
    assert [ended.job for ended in progress.ended] == ["a"]
    assert not progress.over
    progress.take(Over())
    assert progress.over
