# SPDX-License-Identifier: Apache-2.0
"""Runs programs as jobs that outlive their calls, and ends programs that jobs leave running.

`ExecutionService` starts jobs; `waggle.mcp` reads and ends them by number. A job holds its
environment in use and ends with it; its record goes with that of the environment. Output is kept
within bounds: the oldest ended jobs are forgotten first. `Leftovers` lists and ends
programs that jobs left running, as the guest reports them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc

from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost, GuestMisbehaves, JobNotFound, TooManyJobs
from waggle.domain.host import Guest
from waggle.domain.observer import Clock
from waggle.domain.programs import Command, Left, NewRecording
from waggle.domain.programs.job import JobBrief, StreamName
from waggle.service.environments.service import EnvironmentService
from waggle.service.files import located
from waggle.service.programs import Job, What

LOOK_SECONDS = 5.0
"""How long `Leftovers.look` waits for the guest."""

JobsOf = Callable[[str], Iterable[Job]]


@dataclass(frozen=True, slots=True)
class LeftRunning:
    """A program that still runs, and the number of the job that left it, if known."""

    pid: int
    command: str
    job: int | None


@dataclass(frozen=True, slots=True)
class LeftList:
    """Some of the programs that still run, and how many there are."""

    programs: tuple[LeftRunning, ...] = ()
    count: int = 0


class Leftovers:
    """The programs that jobs left running, in all environments of one server."""

    def __init__(self, environments: EnvironmentService, jobs_of: JobsOf) -> None:
        self._environments = environments
        self._jobs_of = jobs_of
        self._noted: set[str] = set()

    def note(self, environment_id: str) -> None:
        """Note that a job left something running there."""
        self._noted.add(environment_id)

    def forget(self, environment_id: str) -> None:
        """Forget an environment that is gone."""
        self._noted.discard(environment_id)

    async def look(self, environment_id: str, *, owner: str, always: bool = True) -> LeftList:
        """Return those of one environment; unless `always`, ask only if something was left.

        The list is empty while it does not run, or if its guest does not answer in LOOK_SECONDS.
        Not a use of it. Raises NotFound or InvalidArgument.
        """
        environment = self._environments.get(environment_id, owner=owner)
        left, ask = Left(), always or environment.id in self._noted
        self._noted.discard(environment.id)  # `may_have_left` remembers it from now on
        with anyio.move_on_after(LOOK_SECONDS), contextlib.suppress(GuestLost, GuestMisbehaves):
            left = await self._environments.left(environment.id, owner=owner, always=ask)
        numbers = {job.run_id: job.number for job in self._jobs_of(environment.id) if job.run_id}
        programs = [
            LeftRunning(program.pid, program.command, numbers.get(program.run_id))
            for program in left.programs
        ]
        return LeftList(tuple(programs), left.count)

    async def end(self, environment_id: str, pid: int, *, owner: str) -> None:
        """Kill one with its descendants.

        Raises JobNotFound if no call left a program with that pid running, NotFound, NotRunning,
        InvalidArgument or GuestLost.
        """
        async with self._environments.using(environment_id, owner=owner) as (environment, guest):
            if not await guest.end_program(pid):
                raise JobNotFound(
                    f"No call has left a program {pid} running in environment {environment.id}.",
                    hint="Call read_job without a job_id to see which there are.",
                )

    async def end_of(self, job: Job, *, owner: str) -> int:
        """Kill all programs that an ended job left; return how many there were.

        Idempotent. Raises NotFound, NotRunning or GuestLost.
        """
        if not job.has_left:
            return 0
        async with self._environments.using(job.environment_id, owner=owner) as (_, guest):
            found = (await guest.left_running()).of(job.run_id)
            if found:
                await guest.end_run(job.run_id)
            job.forget_left()
        return len(found)


MAX_RUNNING = 16
"""The most jobs that run in one environment at once."""
MAX_REMEMBERED = 100
"""The most jobs of one environment whose output can still be read."""
MAX_KEPT_BYTES = 64 << 20
"""The most bytes of output kept of one environment's ended jobs."""
Changed = Callable[[Job, StreamName | None], None]
"""Called when a job has printed to a stream or, with None, has started or ended. It must not raise
or wait."""


@dataclass(slots=True)
class _Jobs:
    """The jobs of one environment, oldest first."""

    by_number: dict[int, Job] = field(default_factory=dict[int, Job])
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def trim(self) -> None:
        """Forget the oldest ended jobs until the rest is within the bounds."""
        ended = [job for job in self.by_number.values() if not job.is_running]
        kept = sum(job.kept_bytes for job in ended)
        for job in ended:
            if len(self.by_number) <= MAX_REMEMBERED and kept <= MAX_KEPT_BYTES:
                break
            kept -= job.kept_bytes
            self.by_number.pop(job.number).close()


class JobService:
    """All jobs of one server. They run in the task group `tasks`."""

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        record: NewRecording,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._environments = environments
        self._record = record
        self._clock = clock
        self._tasks = tasks
        self._jobs: dict[str, _Jobs] = {}
        self._listeners: list[Changed] = []
        self.left = Leftovers(environments, self._of)
        """The programs that jobs left running."""
        environments.events.when_removed(self._forget)
        environments.disk.count(self._bytes)

    def when_changed(self, notify: Changed) -> None:
        """Call `notify` when a job starts, prints or ends; see `Changed`."""
        self._listeners.append(notify)

    def _notify(self, job: Job, stream: StreamName | None = None) -> None:
        for notify in self._listeners:
            notify(job, stream)

    async def start(self, environment_id: str, command: Command, what: What, *, owner: str) -> Job:
        """Start a program and return its job, which does not need a waiting caller.

        With a `turn` it may be a job that exists already; see `What`. Raises NotFound, NotRunning,
        InvalidArgument or TooManyJobs.
        """
        async with AsyncExitStack() as stack:
            environment, guest = await stack.enter_async_context(
                self._environments.using(environment_id, owner=owner)
            )
            if command.cwd is not None:
                cwd = await located(guest, command.cwd, command.user)
                command = replace(command, cwd=cwd)
            queue = self._queue(environment.id) if what.turn else []
            if same := next((job for job in queue if job.what.turn == what.turn), None):
                return same
            job = self._admit(environment, what)
            job.limit = command.timeout
            self._tasks.start_soon(self._run, job, guest, command, stack.pop_all(), queue)
            self._notify(job)
            return job

    def _bytes(self) -> Counter[str]:
        """Return what output takes of the disk, by owner."""
        kept = Counter[str]()
        for environment in self._environments.all():
            kept[environment.owner] += sum(job.kept_bytes for job in self._of(environment.id))
        return kept

    def _of(self, environment_id: str) -> tuple[Job, ...]:
        jobs = self._jobs.get(environment_id)
        return tuple(jobs.by_number.values()) if jobs else ()

    def _queue(self, environment_id: str) -> list[Job]:
        """Return the jobs that take turns there and have not ended, oldest first."""
        return [job for job in self._of(environment_id) if job.what.turn and job.is_running]

    def _admit(self, environment: Environment, what: What) -> Job:
        jobs = self._jobs.setdefault(environment.id, _Jobs())
        if self.running(environment.id) >= MAX_RUNNING:
            raise TooManyJobs(f"{MAX_RUNNING} jobs run in environment {environment.id}.")
        job = Job(environment.id, next(jobs.numbers), what, self._record, self._clock)
        jobs.by_number[job.number] = job
        jobs.trim()
        return job

    async def _run(
        self,
        job: Job,
        guest: Guest,
        command: Command,
        held: AsyncExitStack,
        before: Sequence[Job],
    ) -> None:
        try:
            async with held:
                await job.run(guest, command, self._notify, before)
        finally:
            if job.has_left:
                self.left.note(job.environment_id)
            job.settle()
            self._notify(job)
            if jobs := self._jobs.get(job.environment_id):
                jobs.trim()
            else:
                job.close()  # its environment was destroyed meanwhile

    def get(self, environment_id: str, number: int, *, owner: str) -> Job:
        """Return a remembered job. This counts as use of a running environment.

        Raises NotFound, InvalidArgument or JobNotFound.
        """
        environment = self._environments.touch(environment_id, owner=owner)
        jobs = self._jobs.get(environment.id)
        job = jobs.by_number.get(number) if jobs else None
        if job is None:
            raise JobNotFound(f"There is no job {number} in environment {environment.id}.")
        return job

    def newest(self, environment_id: str, count: int, *, owner: str) -> tuple[Job, ...]:
        """Return the last `count` jobs, newest first. Raises NotFound or InvalidArgument."""
        environment = self._environments.get(environment_id, owner=owner)
        return self._of(environment.id)[::-1][:count]

    def list(self, environment_id: str, *, owner: str) -> tuple[JobBrief, ...]:
        """Return the remembered jobs, oldest first. This counts as use, as with `get`.

        Raises NotFound or InvalidArgument.
        """
        environment = self._environments.touch(environment_id, owner=owner)
        return tuple(job.brief() for job in self._of(environment.id))

    def running(self, environment_id: str) -> int:
        """Return how many jobs run in an environment."""
        return sum(job.is_running for job in self._of(environment_id))

    def _forget(self, environment_id: str) -> None:
        self.left.forget(environment_id)
        if jobs := self._jobs.pop(environment_id, None):
            for job in jobs.by_number.values():
                if not job.is_running:
                    job.close()
