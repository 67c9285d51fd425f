# SPDX-License-Identifier: Apache-2.0
"""Answers of a program that a guest put in the place of `files`: read, or refused cheaply."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutations import TURNS, fuzzed, mutated
from tests.support.strain import STALL

from waggle.domain.files.search import MAX_CONTEXT, MAX_RESULTS, Kind, Searched, SearchQuery
from waggle.domain.files.tree import MAX_LISTED, Skipped, TreeEntry, Unpacked, decode
from waggle.infra.ssh.run.trees import CutOff, searched, unpacked

NAMES = SearchQuery("/home", name="*", max_results=MAX_RESULTS)
MIB = 1 << 20
END = b"e\0\x003\x002\x001\x000\x000\0"
ANSWER = 1_200_000
"""The number of bytes accepted of an answer."""


def search(answer: bytes) -> Searched:
    return searched(NAMES, answer, timed_out=False)


def test_matches_are_read() -> None:
    found = search(b"f\0a\0f\x005\0m\0b/c\x007\x003\x001\0x\ny\nz\0" + END)
    name, line = found.matches
    assert (name.path, name.kind, name.size) == ("/home/a", Kind.FILE, 5)
    assert (line.path, line.line, line.column) == ("/home/b/c", 7, 3)
    assert (line.before, line.text, line.after) == (("x",), "y", ("z",))
    assert (found.entries, found.files, found.binary) == (3, 2, 1)


def test_as_many_results_as_requested_are_read() -> None:
    assert len(search(b"f\0a\0f\x005\0" * MAX_RESULTS + END).matches) == MAX_RESULTS


@pytest.mark.parametrize(
    "answer",
    [
        b"f\0a\0f\x005\0" * (MAX_RESULTS + 1) + END,
        b"m\0a\x001\x001\x000\0" + b"\n" * (2 * MAX_CONTEXT + 1) + b"\0" + END,
        b"m\0a\x001\x001\x001\0line\0" + END,
        b"m\0a\x000\x001\x000\0line\0" + END,
        b"f\0a\0f\x00" + b"1" * 21 + b"\0" + END,
        b"f\0a\0f\x00-1\0" + END,
        b"f\0" + b"a" * 30_000 + b"\0f\x001\0" + END,
        b"q\0" + END,
        b"e\0why\0",
        b"f\0a\0f\x005\0",
        b"f\0a\0f\x005",
        b"",
    ],
)
def test_malformed_answers_are_refused(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        search(answer)


def test_after_a_timeout_the_rest_may_be_missing() -> None:
    for cut in range(8):
        found = searched(NAMES, b"f\0a\0f\x005\0"[:cut], timed_out=True)
        assert (found.stopped, found.matches) == ("time", ())


def test_failures_are_read_up_to_the_limit() -> None:
    end = b"e\x001\x002\x003\x004\x00999\0"
    done = unpacked(b"x\0a\xff\0no\nroom\0" * MAX_LISTED + end)
    assert (done.files, done.failed, len(done.failures)) == (1, 999, MAX_LISTED)
    assert done.failures[0] == Skipped(b"a\xff", "no?room")
    with pytest.raises(ValueError, match="more failures"):
        unpacked(b"x\0a\0no\0" * (MAX_LISTED + 1) + end)
    with pytest.raises(CutOff):
        unpacked(end[:-1])


def test_failures_of_several_runs_stay_bounded() -> None:
    run = Unpacked(failed=100, failures=tuple(Skipped(b"%d" % n, "") for n in range(100)))
    assert ((run + run).failed, (run + run).failures) == (200, run.failures)


FLOODS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "failures": (unpacked, b"x\0a\0b\0" * (ANSWER // 6)),
    "nothing": (unpacked, bytes(ANSWER)),
    "names": (search, b"f\0a\0f\x001\0" * (ANSWER // 8)),
    "lines": (search, b"m\0a\x001\x001\x000\0" + b"\n" * ANSWER + b"\0" + END),
    "digits": (search, b"f\0a\0f\0" + b"1" * ANSWER + b"\0" + END),
    "one name": (search, b"f\0" + b"a" * ANSWER),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_costs_milliseconds_and_little_memory(flood: str) -> None:
    """Before, failures took 2.7 s and 123 MiB on the event loop, lines 135 MiB."""
    read, answer = FLOODS[flood]
    started = time.process_time()
    with pytest.raises(ValueError, match=r".*"):
        read(answer)
    assert time.process_time() - started < STALL
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r".*"):
            read(answer)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


FIELDS = st.sampled_from(
    [b"e", b"f", b"m", b"x", b"", b"a/b", b"0", b"1", b"7", b"-1", b"l\nl", b"time", b"\xff"]
)


@given(st.lists(FIELDS, max_size=24).map(lambda fields: b"\0".join([*fields, b""])), st.booleans())
def test_any_answer_is_read_or_refused(answer: bytes, timed_out: bool) -> None:
    with contextlib.suppress(ValueError):
        unpacked(answer)
    with contextlib.suppress(ValueError):
        searched(NAMES, answer, timed_out=timed_out)


SEEDS = [
    b"f\0a\0f\x005\0m\0b/c\x007\x003\x001\0x\ny\nz\0" + END,
    b"x\0a\xff\0no room\0e\x001\x002\x003\x004\x001\0",
    b"f 644 7 2\0d/f\0hid 755 0 0\0d\0l 777 0 1\0d/l\0fs 0 0 2\0pipe\0no" + b"e 0 0 0\0\0",
]


def read_all(answer: bytes) -> None:
    """Read an answer as unpack and search do, and as a packed tree."""
    with contextlib.suppress(ValueError):
        assert len(unpacked(answer).failures) <= MAX_LISTED
    with contextlib.suppress(ValueError):
        assert len(searched(NAMES, answer, timed_out=False).matches) <= MAX_RESULTS
    with contextlib.suppress(ValueError):
        for entry in decode(lambda at, size: answer[at : at + size], len(answer)):
            if isinstance(entry, TreeEntry):
                assert len(entry.data) <= len(answer)


@given(mutated(SEEDS))
def test_a_damaged_answer_is_read_or_refused(answer: bytes) -> None:
    read_all(answer)


@pytest.mark.fuzz
@pytest.mark.parametrize("turn", TURNS)
def test_100_000_answers_are_read_or_refused(turn: int) -> None:
    @fuzzed
    @given(mutated(SEEDS))
    def attempt(answer: bytes) -> None:
        read_all(answer)

    attempt()
