# SPDX-License-Identifier: Apache-2.0
"""What a guest's launcher answers about jobs: the frames of a job that is followed, and the list.

The formats are those of rootfs/kit/guest (follow.c, job.c). Pure, apart from `FollowSession`, which
`GuestJobs` gives to asyncssh. Root in the guest can write all of these answers, so they are parsed
strictly and bounded; anything else makes an answer invalid.
"""

from __future__ import annotations

import asyncio
import re
import signal
import struct
from dataclasses import dataclass
from typing import Final

import asyncssh

from waggle.domain.programs import NOTHING_LEFT, Left
from waggle.domain.programs.guest_job import (
    MAX_GUEST_JOBS,
    MAX_NOTE_BYTES,
    FoundJob,
    GuestJob,
    JobStream,
)
from waggle.infra.ssh.asyncssh_internals import STDERR
from waggle.infra.ssh.run.launcher import MAX_LEFT, OutputCollector, parse_left

MAX_PIECE: Final = 32 << 10
"""Bytes of output in one frame; follow.c never sends more."""
_MAX_END: Final = MAX_LEFT + 200
_MAX_OFFSET: Final = 20
_LARGEST: Final = 1 << 62
_HEAD: Final = struct.Struct("!cI")
_MAX_GAPS: Final = 64
"""The most gaps in one packet: follow.c sends one only after more output than fits the packet."""
_COMPLAINT: Final = 1_000
MAX_LIST: Final = MAX_GUEST_JOBS * (MAX_NOTE_BYTES + 300)
"""Bytes of a list of jobs."""
CONTEXT_ENDED: Final = 64
"""The signal by which code ends whose context ended first; job.h."""
_OUTPUT, _OFFSETS, _START, _END = b"oed", b"OED", b"s", b"x"
_SIZES: Final = {
    **{bytes([kind]): (1, MAX_PIECE) for kind in _OUTPUT},
    **{bytes([kind]): (1, _MAX_OFFSET) for kind in _OFFSETS},
    _START: (0, 0),
    _END: (1, _MAX_END),
}
"""The least and most bytes of a frame, by kind. The first frame, and only that, is a start."""
_ENDING = re.compile(r"(exit|signal|lost)(?: (\d{1,3}))?\nelapsed (\d{1,19})\n")
_JOB = re.compile(
    rb"([0-9a-f-]{36}) ([012]) (\d{1,6}) (\d{1,19}) (\d{1,19}) (\d{1,19}) (\d{1,19}) (\d{1,4})\n"
)


class InvalidFrame(ValueError):
    """The guest sent what follow.c never sends."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended. `is_lost` says that the guest does not know; `elapsed` is seconds."""

    exit_code: int | None
    signal: int | None
    is_lost: bool
    elapsed: float
    left: Left = NOTHING_LEFT

    @property
    def signal_name(self) -> str | None:
        """The name of the signal that ended it, if one did."""
        return None if self.signal is None else signal_name(self.signal)


def signal_name(number: int) -> str:
    """Return a signal's name as programs print it; SIG and its number if it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def parse_end(data: bytes) -> JobEnd:
    """Parse the last frame. Raises InvalidFrame."""
    found = _ENDING.match(text := data.decode("utf-8", "replace"))
    if found is None or (found[1] == "lost") is not (found[2] is None):
        raise InvalidFrame("an end without its parts")
    value = int(found[2] or 0)
    return JobEnd(
        exit_code=value if found[1] == "exit" else None,
        signal=value if found[1] == "signal" else None,
        is_lost=found[1] == "lost",
        elapsed=int(found[3]) / 1e9,
        left=parse_left(text[found.end() :].encode()),
    )


def parse_jobs(data: bytes) -> tuple[FoundJob, ...]:
    """Parse the list of a guest's jobs. Raises InvalidFrame."""
    jobs: list[FoundJob] = []
    at = 0
    while (found := _JOB.match(data, at)) is not None:
        end = found.end() + int(found[8])
        note = data[found.end() : end]
        if (
            len(jobs) == MAX_GUEST_JOBS
            or len(note) > MAX_NOTE_BYTES
            or data[end : end + 1] != b"\n"
        ):
            raise InvalidFrame("too many jobs, or a note that does not fit")
        stage, status = int(found[2]), int(found[3])
        ended = stage == 2
        by_signal = status & 0x7F
        jobs.append(
            FoundJob(
                id=found[1].decode(),
                is_running=not ended,
                exit_code=status >> 8 & 0xFF if ended and not by_signal else None,
                signal=by_signal if ended and by_signal else None,
                elapsed=int(found[4]) / 1e9,
                printed=(int(found[5]), int(found[6]), int(found[7])),
                note=note,
            )
        )
        at = end + 1
    if data[at:] != b"all %d\n" % len(jobs):
        raise InvalidFrame("the list has no end")
    return tuple(jobs)


class Frames:
    """The parser of the frames of one job, which come in pieces. It moves the job's offsets on."""

    def __init__(self, job: GuestJob) -> None:
        self._job = job
        self._streams: tuple[JobStream, ...] = (
            job.streams.stdout,
            job.streams.stderr,
            job.streams.display,
        )
        self._buffer = bytearray()
        self.has_begun = False
        """Whether the guest has said that it sends what the job prints."""
        self.end: JobEnd | None = None

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises InvalidFrame. Holds at most one frame.

        Each stream gets its output at once, however many frames a guest makes of it.
        """
        self._buffer += data
        output = (bytearray(), bytearray(), bytearray())
        try:
            del self._buffer[: self._take_all(output)]
        finally:
            self._pass_on(output)
        if self.end is not None and self._buffer:
            raise InvalidFrame("more after the end")

    def _take_all(self, output: tuple[bytearray, ...]) -> int:
        """Take the whole frames in the buffer, and return where the next one begins."""
        buffer, at, gaps = self._buffer, 0, 0
        while len(buffer) - at >= _HEAD.size and self.end is None:
            kind, size = _HEAD.unpack_from(buffer, at)
            low, high = _SIZES.get(kind, (0, -1))
            if not low <= size <= high or self.has_begun is (kind == _START):
                raise InvalidFrame("a frame of no kind, of a wrong size or out of order")
            begin = at + _HEAD.size
            if len(buffer) - begin < size:
                break
            at = begin + size
            if (number := _OUTPUT.find(kind)) >= 0:
                output[number].extend(buffer[begin:at])
                continue
            gaps += kind in _OFFSETS
            if gaps > _MAX_GAPS:
                raise InvalidFrame("a gap for every few bytes")
            self._pass_on(output)
            self._take(kind, bytes(buffer[begin:at]))
        return at

    def _pass_on(self, output: tuple[bytearray, ...]) -> None:
        for number, data in enumerate(output):
            if data:
                self._job.offsets[number] += len(data)
                self._streams[number].feed(bytes(data))
                data.clear()

    def _take(self, kind: bytes, data: bytes) -> None:
        if kind in _OFFSETS:
            number = _OFFSETS.index(kind)
            begin = int(data) if data.isdigit() else -1
            gap = begin - self._job.offsets[number]
            if gap <= 0 or begin > _LARGEST:
                raise InvalidFrame("an offset that does not move on")
            self._job.offsets[number] = begin
            self._streams[number].skip(gap)
        elif kind == _START:
            self.has_begun = self._job.is_started = True
            self._job.started()
        else:
            self.end = parse_end(data)


class FollowSession(asyncssh.SSHClientSession[bytes]):
    """The channel over which one job is followed. `ended` is set when it has closed."""

    def __init__(self, job: GuestJob) -> None:
        self.frames = Frames(job)
        self.ended = asyncio.Event()
        self.is_invalid = False
        self._complaint = OutputCollector(_COMPLAINT)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Called by asyncssh with a piece of the answer."""
        if datatype == STDERR:
            self._complaint.feed(data)
        elif not self.is_invalid:
            try:
                self.frames.feed(data)
            except InvalidFrame:
                self.is_invalid = True
            if self.is_invalid or self.frames.end is not None:
                self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncssh when the channel has closed for any reason."""
        self.ended.set()

    @property
    def complaint(self) -> str:
        """What the launcher printed on stderr, which is for the server."""
        return self._complaint.output().text().strip()
