# SPDX-License-Identifier: Apache-2.0
"""Runs programs as jobs that outlive the calls that started them.

Called by `ExecutionService`, which decides what runs, and by `waggle.mcp` for jobs that are known
by number. A job holds its environment in use; it ends with it, and its record with that of the
environment. Output is kept within bounds: what ended longest ago goes first.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import anyio.abc

from waggle.domain.environment import Environment
from waggle.domain.errors import JobNotFound, TooManyJobs
from waggle.domain.host import Guest
from waggle.domain.observer import Clock
from waggle.domain.programs.execution import Command
from waggle.domain.programs.job import JobBrief, StreamName
from waggle.service.environments.service import EnvironmentService
from waggle.service.files.files import located
from waggle.service.programs.job import Job, What
from waggle.service.programs.leftovers import Leftovers
from waggle.service.programs.recording import NewRecording

MAX_RUNNING = 16
"""Jobs that run in one environment at once."""
MAX_REMEMBERED = 100
"""Jobs of one environment whose output can still be read."""
MAX_KEPT_BYTES = 64 << 20
"""Bytes of output kept of one environment's jobs that have ended."""
Changed = Callable[[Job, StreamName | None], None]
"""Told that a job has printed to a stream or, without one, started or ended. It must not raise or
wait."""


@dataclass(slots=True)
class _Jobs:
    """The jobs of one environment, oldest first."""

    by_number: dict[int, Job] = field(default_factory=dict[int, Job])
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def running(self) -> int:
        return sum(job.is_running for job in self.by_number.values())

    def trim(self) -> None:
        """Forget what ended longest ago, until the rest is within the bounds."""
        ended = [job for job in self.by_number.values() if not job.is_running]
        kept = sum(job.kept_bytes for job in ended)
        for job in ended:
            if len(self.by_number) <= MAX_REMEMBERED and kept <= MAX_KEPT_BYTES:
                break
            kept -= job.kept_bytes
            self.by_number.pop(job.number).close()


class JobService:
    """All jobs of one server, which run in the task group it is given."""

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
        self._tellers: list[Changed] = []
        self.left = Leftovers(environments, self._of)
        """What they have left running."""
        environments.news.when_removed(self._forget)
        environments.disk.count(self._bytes)

    def when_changed(self, tell: Changed) -> None:
        """Call `tell` when a job starts, prints or ends; see `Changed`."""
        self._tellers.append(tell)

    def _tell(self, job: Job, stream: StreamName | None = None) -> None:
        for tell in self._tellers:
            tell(job, stream)

    async def start(self, environment_id: str, command: Command, what: What, *, owner: str) -> Job:
        """Start a program; the job is the caller's to wait for, and goes on if nobody does.

        With words for its turn it may be a job that was there already; see `What`. Raises NotFound,
        NotRunning, InvalidArgument or TooManyJobs.
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
            self._tell(job)
            return job

    def _bytes(self) -> Counter[str]:
        """What output takes of the disk, by owner."""
        kept = Counter[str]()
        for environment in self._environments.all():
            kept[environment.owner] += sum(job.kept_bytes for job in self._of(environment.id))
        return kept

    def _of(self, environment_id: str) -> tuple[Job, ...]:
        jobs = self._jobs.get(environment_id)
        return tuple(jobs.by_number.values()) if jobs else ()

    def _queue(self, environment_id: str) -> list[Job]:
        """The jobs that take turns there and have not ended, the last one last."""
        return [job for job in self._of(environment_id) if job.what.turn and job.is_running]

    def _admit(self, environment: Environment, what: What) -> Job:
        jobs = self._jobs.setdefault(environment.id, _Jobs())
        if jobs.running() >= MAX_RUNNING:
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
                await job.run(guest, command, self._tell, before)
        finally:
            if job.has_left:
                self.left.note(job.environment_id)
            job.settle()
            self._tell(job)
            if jobs := self._jobs.get(job.environment_id):
                jobs.trim()
            else:
                job.close()  # its environment went meanwhile

    def get(self, environment_id: str, number: int, *, owner: str) -> Job:
        """A job that is remembered. Asking is a use of a running environment.

        Raises NotFound, InvalidArgument or JobNotFound.
        """
        environment = self._environments.touch(environment_id, owner=owner)
        jobs = self._jobs.get(environment.id)
        job = jobs.by_number.get(number) if jobs else None
        if job is None:
            raise JobNotFound(f"There is no job {number} in environment {environment.id}.")
        return job

    def newest(self, environment_id: str, count: int, *, owner: str) -> tuple[Job, ...]:
        """The last jobs that are remembered, newest first. Raises NotFound or InvalidArgument."""
        environment = self._environments.get(environment_id, owner=owner)
        jobs = self._jobs.get(environment.id)
        return tuple(itertools.islice(reversed(jobs.by_number.values()), count)) if jobs else ()

    def list(self, environment_id: str, *, owner: str) -> tuple[JobBrief, ...]:
        """The jobs that are remembered, oldest first. Asking is a use, as with `get`.

        Raises NotFound or InvalidArgument.
        """
        environment = self._environments.touch(environment_id, owner=owner)
        jobs = self._jobs.get(environment.id)
        return tuple(job.brief() for job in jobs.by_number.values()) if jobs else ()

    def running(self, environment_id: str) -> int:
        """How many run in an environment."""
        jobs = self._jobs.get(environment_id)
        return jobs.running() if jobs else 0

    def _forget(self, environment_id: str) -> None:
        self.left.forget(environment_id)
        if jobs := self._jobs.pop(environment_id, None):
            for job in jobs.by_number.values():
                if not job.is_running:
                    job.close()
