# SPDX-License-Identifier: Apache-2.0
"""The frames of a job: split anywhere, invalid, out of order, after the end."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.ssh.run.frames import END, frame
from tests.support.jobs import job
from tests.support.vm import command

from waggle.domain.programs.guest_job import GuestJob, JobStreams
from waggle.infra.ssh.run.following import MAX_PIECE, Frames, InvalidFrame
from waggle.infra.ssh.run.launcher import OutputCollector

START = frame(b"s")
WHOLE = b"".join(
    [START, frame(b"o", b"abc"), frame(b"E", b"10"), frame(b"e", b"xy"), frame(b"x", END)]
)


class Counted(OutputCollector):
    def __init__(self) -> None:
        super().__init__(10_000)
        self.pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.pieces.append(data)


def fed(*pieces: bytes) -> tuple[GuestJob, Frames]:
    made = job(command("x"))
    frames = Frames(made)
    for piece in pieces:
        frames.feed(piece)
    return made, frames


@given(st.lists(st.integers(0, len(WHOLE)), max_size=10).map(sorted))
def test_frames_may_be_split_anywhere(cuts: list[int]) -> None:
    places = [0, *cuts, len(WHOLE)]
    made, frames = fed(*(WHOLE[a:b] for a, b in itertools.pairwise(places)))
    assert made.is_started
    assert made.offsets == [3, 12, 0]
    assert made.streams.stdout.output().head == b"abc"
    assert frames.end is not None
    assert frames.end.exit_code == 3


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_garbage_is_refused_or_taken_but_never_fails_otherwise(noise: bytes, at: int) -> None:
    with contextlib.suppress(InvalidFrame):
        fed(WHOLE[:at] + noise + WHOLE[at:])


@pytest.mark.parametrize(
    "bad",
    [
        frame(b"o", b"x" * (MAX_PIECE + 1)),
        b"o\xff\xff\xff\xff",
        frame(b"q"),
        frame(b"s", b"x"),
        frame(b"s"),
        frame(b"o"),
        frame(b"O", b"0"),
        frame(b"O", b"-1"),
        frame(b"O", b""),
        frame(b"O", b"9" * 20),
        frame(b"o", b"abc") + frame(b"O", b"3"),
        frame(b"o", b"abc") + frame(b"O", b"2"),
        frame(b"x", b"exit\nelapsed 5\n"),
        frame(b"x", b"lost 3\nelapsed 5\n"),
        frame(b"x", b"exit 3\n"),
        frame(b"x", b""),
        frame(b"x", END) + frame(b"x", END),
        frame(b"x", END) + b"\0",
    ],
)
def test_what_the_kit_never_sends_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidFrame):
        fed(START + bad)


@pytest.mark.parametrize("kind", [b"o", b"E", b"x"])
def test_the_first_frame_is_a_start(kind: bytes) -> None:
    with pytest.raises(InvalidFrame):
        fed(frame(kind, END))


def test_output_in_tiny_frames_is_passed_on_at_once() -> None:
    """A guest may send 5,000 frames in a packet; each that is passed on costs the event loop."""
    made = job(command("x"))
    counted = Counted()
    made.streams = JobStreams(counted, counted, counted)
    Frames(made).feed(START + frame(b"o", b"x") * 5_000)
    assert counted.pieces == [b"x" * 5_000]
    assert made.offsets == [5_000, 0, 0]


def test_gaps_in_a_packet_are_few() -> None:
    gaps = [frame(b"O", str(2 * at).encode()) + frame(b"o", b"x") for at in range(1, 100)]
    fed(START, *gaps)  # in packets of their own
    with pytest.raises(InvalidFrame, match="gap"):
        fed(START + b"".join(gaps))


def test_at_most_one_frame_is_held() -> None:
    made, _ = fed(START, *[frame(b"o", b"x" * MAX_PIECE)] * 50, frame(b"o", b"y" * MAX_PIECE)[:-1])
    assert made.offsets[0] == 50 * MAX_PIECE
