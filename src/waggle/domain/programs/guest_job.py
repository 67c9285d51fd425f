# SPDX-License-Identifier: Apache-2.0
"""A job as its guest keeps it: what to start, how far it was followed, what a guest lists. Pure.

The program belongs to the guest, which keeps its output within bounds, so it continues when a
connection breaks and in copies of the machine. `service.programs` makes a `GuestJob` for each of
its jobs, and `domain.host.Guest` attaches to it, several times if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from waggle.domain.errors import GuestLost
from waggle.domain.programs import Command, ExecutionResult, Stream

MAX_NOTE_BYTES = 2_000
"""Bytes that a guest keeps of what its server wants to know about a job."""
MAX_GUEST_JOBS = 128
"""The most jobs that a guest remembers."""


class Detached(GuestLost):
    """A job is no longer followed, since its machine is being paused; it continues there."""

    def __init__(self) -> None:
        """Nothing is wrong, so there is nothing to explain."""
        super().__init__("The environment is paused.")


class EndedByRestart(GuestLost):
    """The environment was restarted, which ended the job; it may have done a part of its work."""

    code = "ended_by_restart"
    default_hint = "The environment's files are kept: run it again, if it is still wanted."


class JobStream(Stream, Protocol):
    """Takes one output stream of a job, of which the guest may not have kept all."""

    def skip(self, count: int) -> None:
        """Note that the next `count` bytes were printed but not kept."""
        ...


@dataclass(frozen=True, slots=True)
class JobStreams:
    """The destinations of a job's output. Displays are records; see `domain.programs.display`."""

    stdout: JobStream
    stderr: JobStream
    display: JobStream


@dataclass(frozen=True, slots=True)
class Terminal:
    """The size of a terminal that a program has for its input and output."""

    rows: int = 24
    columns: int = 80


TERMINAL_VARIABLES: Mapping[str, str] = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
"""What programs in a terminal need to know of it."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """How a job runs, besides its command.

    `keep` is the bytes kept of the beginning of each stream. With `keeps_input`, standard input
    stays open for more. `has_displays` lets the program print displays. The program of a context
    has a driver's two descriptors; code with a `context` runs in the job of that id, and is
    interrupted `interrupts` times, with ever longer waits, before its context is killed.
    """

    keep: int = 1 << 30
    keeps_input: bool = False
    has_displays: bool = False
    has_driver: bool = False
    terminal: Terminal | None = None
    context: str = ""
    interrupts: int = 5


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False)
class GuestJob:
    """One job of a guest and the place up to which it was followed.

    `id` is the guest's name for it. `remaining` is the seconds until it is killed; it shrinks while
    the job is followed. `is_started` is set once the guest is known to have it, and `started` is
    called then, without an await. `has_ended` says that only its output and end are still to be
    read, in at most `remaining` seconds, and that there is nothing to kill. `offsets` are the bytes
    taken of each stream. `lost_context` is set when an interrupt of its code ended its context, or
    the code did not react to one and its context was killed.
    """

    id: str
    command: Command
    streams: JobStreams
    remaining: float
    attributes: Attributes = field(default_factory=Attributes)
    note: bytes = b""
    is_started: bool = False
    started: Callable[[], None] = _nothing
    has_ended: bool = False
    offsets: list[int] = field(default_factory=lambda: [0, 0, 0])
    lost_context: bool = False


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job that a guest lists. The guest controls all of it, the server's note included.

    `exit_code` and `signal` are None while it runs. `elapsed` is seconds. `printed` counts the
    bytes of stdout, stderr and displays.
    """

    id: str
    is_running: bool
    exit_code: int | None
    signal: int | None
    elapsed: float
    printed: tuple[int, int, int]
    note: bytes


class JobsOfGuest(Protocol):
    """The part of a guest that runs programs; see `domain.host.Guest`."""

    async def run(self, command: Command) -> ExecutionResult:
        """Run a command. On timeout or cancellation its whole process tree is killed.

        The result holds its output, cut to the command's `output_limit`. Raises GuestLost when the
        guest dies or stops answering; a failing command is a result.
        """
        ...

    async def attend(self, job: GuestJob) -> ExecutionResult:
        """Follow a job to its end, from where it was followed before; start it if it is not yet.

        On timeout or cancellation its whole process tree is killed, unless it has ended; code in a
        context is interrupted first. Its output goes into its streams as it comes. Raises Detached
        when the machine is paused, and the job continues with it: attend again, in the guest that
        it has become. Raises GuestLost when the guest dies or stops answering, and JobNotFound when
        it has forgotten a job that has ended.
        """
        ...

    async def jobs(self) -> tuple[FoundJob, ...]:
        """Return the jobs that the guest remembers, those that run first. Raises GuestLost."""
        ...

    async def write_input(self, job_id: str, data: bytes, *, close: bool) -> bool:
        """Write to a job's standard input, and with `close` end it.

        Waits until the program has taken all but a pipe's length. Returns False if it takes no
        more, or never did. Raises GuestLost, or TimedOut if the program does not read. Not
        idempotent.
        """
        ...

    async def signal(self, job_id: str, number: int) -> bool:
        """Send a signal to a job's process group; False if it does not run. Raises GuestLost."""
        ...

    async def resize(self, job_id: str, terminal: Terminal) -> bool:
        """Set the size of a job's terminal; False if it has none. Raises GuestLost."""
        ...
