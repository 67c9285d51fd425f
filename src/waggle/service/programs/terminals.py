# SPDX-License-Identifier: Apache-2.0
"""Terminals: shells that people type into, and programs that want a terminal, as jobs.

Called by `waggle.web.terminal`. A terminal is a job of its environment, so it continues when a
client hangs up, and any client of the owner attaches to it again by its number and the offset of
what it has read. Its output is the job's recording: nothing is buffered for a slow reader. A
terminal alone does not keep its environment from being idle; typing counts as use.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TypeGuard
from weakref import WeakKeyDictionary, WeakSet

import anyio

from waggle.domain.environment import Environment
from waggle.domain.errors import InvalidArgument, JobEnded, TooManyJobs
from waggle.domain.programs import Command, GuestUser
from waggle.domain.programs.guest_job import TERMINAL_VARIABLES, Attributes, Terminal
from waggle.domain.programs.job import JobKind, JobView, Recorded, StreamName
from waggle.domain.programs.runtime import LOGIN_SHELL
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs import Job, What
from waggle.service.programs.jobs import JobService

_ALL = 1 << 20
MAX_TERMINALS = 4
"""The most terminals that run in one environment at once."""
MAX_SIZE = 1_000
"""The most rows or columns."""
MAX_PIECE = 32 << 10
"""The most bytes that `Reader.next` returns at once."""
AGAIN = 64 << 10
"""Bytes of the end that a reader gets which does not say where to begin."""
SECONDS = 10.0**8
"""A terminal has no time limit of its own: it ends with its environment at the latest."""
_KEEP = 1 << 20


def parse_size(rows: object, columns: object) -> Terminal:
    """Return the size of a terminal. Raises InvalidArgument unless both are 1 to MAX_SIZE."""
    if not (_is_length(rows) and _is_length(columns)):
        raise InvalidArgument(
            f"Rows and columns must be whole numbers from 1 to {MAX_SIZE}.",
            hint="Leave them out for 24 and 80.",
        )
    return Terminal(rows, columns)


def _is_length(value: object) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= MAX_SIZE


@dataclass(frozen=True, slots=True)
class Printed:
    """Bytes that the program has printed."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """Bytes that were printed, but are not kept: their count."""

    count: int


@dataclass(frozen=True, slots=True)
class Paused:
    """Its environment is paused now, or runs again."""

    is_paused: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The program has ended, and all that is kept of its output was read."""

    view: JobView


Event = Printed | Skipped | Paused | Ended


class Reader:
    """Reads one job's output from an offset on, at its own pace. Made by `TerminalService`."""

    def __init__(self, job: Job, offset: int | None) -> None:
        total = job.streams[StreamName.STDOUT].total
        self.job = job
        self.offset = min(offset, total) if offset is not None else max(0, total - AGAIN)
        """The bytes that were read or skipped."""
        self._was_paused = False
        self._changed = anyio.Event()

    def wake(self) -> None:
        """Have `next` look again."""
        self._changed.set()

    async def next(self) -> Event:
        """Return what comes next; wait for it if need be. Safe to cancel."""
        while True:
            if self.job.is_paused is not self._was_paused:
                self._was_paused = self.job.is_paused
                return Paused(self._was_paused)
            if self.offset < self.job.streams[StreamName.STDOUT].total:
                return self._read()
            if not self.job.is_running:
                return Ended(self.job.view())
            await self._changed.wait()
            self._changed = anyio.Event()

    def _read(self) -> Event:
        recording = self.job.streams[StreamName.STDOUT]
        if recording.kept <= self.offset < recording.tail:
            gap = recording.tail - self.offset
            self.offset = recording.tail
            return Skipped(gap)
        data = recording.read(self.offset, MAX_PIECE)
        self.offset += len(data)
        return Printed(data)


class TerminalService:
    """Use cases of terminals. Makes and finds jobs with `JobService`."""

    def __init__(self, environments: EnvironmentService, jobs: JobService) -> None:
        self._environments = environments
        self._jobs = jobs
        self._opening = Counter[str]()
        self._readers = WeakKeyDictionary[Job, WeakSet[Reader]]()
        jobs.when_changed(self._printed)
        environments.events.when_changed(self._changed)  # after `jobs`, which notes the pause

    def _printed(self, job: Job, _stream: Recorded | None) -> None:
        for reader in self._readers.get(job, ()):
            reader.wake()

    def _changed(self, environment: Environment) -> None:
        for job, readers in self._readers.items():
            if job.environment_id == environment.id:
                for reader in readers:
                    reader.wake()

    async def open(
        self, environment_id: str, size: Terminal, *, owner: str, user: GuestUser
    ) -> Reader:
        """Start the user's login shell in a terminal, and read it from its beginning.

        A paused environment is resumed. Raises NotFound, NotRunning, InvalidArgument, or
        TooManyJobs.
        """
        environment = self._environments.get(environment_id, owner=owner)
        running = [job for job in self.list(environment.id, owner=owner) if job.is_running]
        if len(running) + self._opening[environment.id] >= MAX_TERMINALS:
            numbers = ", ".join(str(job.number) for job in running)
            raise TooManyJobs(
                f"{MAX_TERMINALS} terminals run in environment {environment.id}.",
                hint=f"Attach to one of the jobs {numbers}, or end one." if numbers else "",
            )
        command = Command((LOGIN_SHELL, "-l"), SECONDS, env=TERMINAL_VARIABLES, user=user)
        what = What(JobKind.TERMINAL, "shell", attributes=Attributes(keep=_KEEP, terminal=size))
        self._opening[environment.id] += 1
        try:
            job = await self._jobs.start(environment.id, command, what, owner=owner)
        finally:
            self._opening[environment.id] -= 1
            self._opening += Counter[str]()  # drops zeros
        return self._reader(job, 0)

    async def attach(
        self, environment_id: str, number: int, offset: int | None, *, owner: str
    ) -> Reader:
        """Read a job's output from an offset on, without resuming its environment.

        Without an offset, from AGAIN bytes before the end. A job without a terminal is read as
        well, and takes input if it does. Raises NotFound, InvalidArgument or JobNotFound.
        """
        job = await self._jobs.get(environment_id, number, owner=owner)
        return self._reader(job, offset)

    def _reader(self, job: Job, offset: int | None) -> Reader:
        reader = Reader(job, offset)
        self._readers.setdefault(job, WeakSet()).add(reader)
        return reader

    def list(self, environment_id: str, *, owner: str) -> tuple[Job, ...]:
        """Return the environment's terminals, oldest first. Raises NotFound or InvalidArgument."""
        return tuple(
            job
            for job in self._jobs.newest(environment_id, _ALL, owner=owner)[::-1]
            if job.what.kind is JobKind.TERMINAL
        )

    async def write(self, job: Job, data: bytes, *, owner: str) -> None:
        """Type, unless it has ended. A paused environment is resumed. Raises as `Control.write`."""
        with contextlib.suppress(JobEnded):
            await self._jobs.control.feed(job, data, owner=owner)

    async def signal(self, job: Job, name: str, *, owner: str) -> None:
        """Send a signal, unless it has ended. Raises as `Control.signal`."""
        with contextlib.suppress(JobEnded):
            await self._jobs.control.signal(job, name, owner=owner)

    async def resize(self, job: Job, size: Terminal, *, owner: str) -> bool:
        """Set the size of its terminal; False if it has none, waits its turn, or is paused.

        Raises as `Control.resize`.
        """
        if job.is_queued or job.is_paused:
            return False
        with contextlib.suppress(JobEnded):
            return await self._jobs.control.resize(job, size, owner=owner)
        return False
