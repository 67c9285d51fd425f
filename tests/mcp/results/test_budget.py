# SPDX-License-Identifier: Apache-2.0
"""The budget of a result: any output of a guest fits into what every client accepts."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.programs import MAX_OUTPUT, Output
from waggle.domain.programs.job import JobKind, JobState, JobView
from waggle.domain.programs.text import printed
from waggle.domain.toolset import Offer
from waggle.mcp.offered import result_for
from waggle.mcp.results import fit, share, shrink, success, wire_size
from waggle.mcp.results.programs import command_output, command_text

EVENT_LIMIT = 1024 * 1024
WORST = {
    "ascii": b"x",
    "quotes": b'"',
    "control": b"\x01",
    "broken": b"\xff",
    "two": "é".encode(),
    "four": "😀".encode(),
}


def whole(data: bytes) -> Output:
    return Output(head=data, total=len(data))


@given(st.text(), st.integers(12, 2_000))
def test_fit_keeps_the_start_of_a_text_within_the_budget(text: str, budget: int) -> None:
    kept = fit(text, budget)
    assert text.startswith(kept)
    assert wire_size(kept) <= budget
    assert kept or not text
    if wire_size(text) <= budget:
        assert kept == text


@given(st.text(min_size=1).map(lambda text: text * 50), st.integers(200, 2_000))
def test_shrink_cuts_the_middle_between_characters(text: str, budget: int) -> None:
    data = text.encode()
    small = shrink(whole(data), budget, 24_000)
    assert len(printed(small)) <= budget
    assert small.total == len(data)
    assert data.startswith(small.head)
    assert data.endswith(small.tail)
    assert small.dropped == len(data) - len(small.head) - len(small.tail)
    if "\ufffd" not in text:
        assert "\ufffd" not in printed(small)


@given(st.binary(max_size=300).map(lambda data: data * 9), st.binary(max_size=300), st.data())
def test_a_cut_stream_can_be_cut_again(head: bytes, tail: bytes, data: st.DataObject) -> None:
    total = len(head) + len(tail) + data.draw(st.integers(0, 1_000))
    small = shrink(Output(head, tail, total), 500, 500)
    assert len(printed(small)) <= 500
    assert small.total == total
    assert head.startswith(small.head)
    assert (tail or head).endswith(small.tail)


def test_the_room_that_a_short_stream_leaves_is_given_to_the_other() -> None:
    long, short = whole(b"x" * 1_000), whole(b"short")
    for first, second in ((long, short), (short, long)):
        stdout, stderr = share(first, second, 600)
        assert short in (stdout, stderr)
        assert 600 - 100 < len(printed(stdout)) + len(printed(stderr)) <= 600
    stdout, stderr = share(long, long, 600)
    assert stdout == stderr
    assert share(short, short, 600) == (short, short)


def ended(stdout: Output, stderr: Output) -> JobView:
    environment = "00000000-0000-4000-8000-000000000001"
    state = JobState.EXITED
    return JobView(environment, 1, JobKind.EXECUTE, "x", state, 1.0, stdout, stderr, 0)


def test_the_worst_output_makes_a_result_that_every_client_accepts() -> None:
    for out in WORST.values():
        for err in (b"", *WORST.values()):
            stdout = Output(head=out * 100_000, tail=out * 100_000, total=1 << 30)
            output, hints = command_output(ended(stdout, whole(err * 200_000)), MAX_OUTPUT)
            made = result_for(success(output, command_text, hints=hints), Offer())
            wire = json.dumps(made.model_dump(mode="json", by_alias=True))
            assert len(wire) < EVENT_LIMIT - 2_000
            assert output.stdout_bytes_cut > (1 << 29)
            assert f"{output.stdout_bytes_cut} of {1 << 30} bytes cut" in output.stdout
