# SPDX-License-Identifier: Apache-2.0
"""Runs programs as jobs that outlive their calls, their connection and their machine's pauses.

`ExecutionService` starts jobs; `waggle.mcp` reads and ends them by number. The program and its
output belong to the guest: a job follows it there, waits while its environment is paused, and goes
on in the guest that this becomes. `adopt` makes jobs of what a copy, or a machine of an earlier
server, brings along. A job keeps its environment from being idle; its record goes with that of the
environment. Output is kept within bounds: the oldest ended jobs are forgotten first.
"""

from __future__ import annotations

import builtins
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import GuestLost, GuestMisbehaves, JobNotFound, TooManyJobs
from waggle.domain.host import Guest
from waggle.domain.observer import Clock, NewId
from waggle.domain.programs import Command, ExecutionResult, NewRecording
from waggle.domain.programs.guest_job import Detached, FoundJob, GuestJob
from waggle.domain.programs.job import JobBrief, StreamName
from waggle.service.environments.service import EnvironmentService
from waggle.service.files import located
from waggle.service.programs import Job, What
from waggle.service.programs.leftovers import Leftovers
from waggle.service.programs.notes import Note, parse_note
from waggle.service.programs.table import JobTable

MAX_RUNNING = 16
"""The most jobs that run in one environment at once."""
ADOPT_SECONDS = 10.0
"""How long `JobService.adopt` waits for a guest's list."""
Changed = Callable[[Job, StreamName | None], None]
"""Called when a job has printed to a stream or, with None, has started or ended. It must not raise
or wait."""
log = structlog.get_logger(__name__)


class JobService:
    """All jobs of one server. They run in the task group `tasks`."""

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        record: NewRecording,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId = lambda: str(uuid.uuid4()),
    ) -> None:
        self._environments = environments
        self._record = record
        self._clock = clock
        self._tasks = tasks
        self._new_id = new_id
        self._jobs: dict[str, JobTable] = {}
        self._listeners: list[Changed] = []
        self.left = Leftovers(environments, self._of)
        """The programs that jobs left running."""
        environments.events.when_removed(self._forget)
        environments.events.when_changed(self._changed)
        environments.events.when_adopted(self.adopt)
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
            queue = self._queue(environment.id, what.queue)
            if same := next(
                (job for job in queue if what.turn and job.what.turn == what.turn), None
            ):
                return same
            job = self._admit(environment, command, what)
            self._begin(job, queue)
            return job

    def _admit(self, environment: Environment, command: Command, what: What) -> Job:
        jobs = self._jobs.setdefault(environment.id, JobTable())
        if self.running(environment.id) >= MAX_RUNNING:
            raise TooManyJobs(f"{MAX_RUNNING} jobs run in environment {environment.id}.")
        note = Note(
            number=jobs.last + 1,
            kind=what.kind,
            summary=what.summary,
            started_at=self._clock(),
            limit=command.timeout,
            program=command.argv[0],
            user=command.user,
        )
        job = self._job(environment.id, note, what, command, self._new_id())
        jobs.add(job)
        return job

    def _job(
        self, environment_id: str, note: Note, what: What, command: Command, run_id: str
    ) -> Job:
        return Job(environment_id, note, what, command, self._record, self._clock, run_id=run_id)

    def _begin(self, job: Job, before: Sequence[Job] = ()) -> None:
        """Follow it in a task of its own."""
        self._count(job.environment_id)
        self._tasks.start_soon(self._run, job, before)
        self._notify(job)

    def _count(self, environment_id: str) -> None:
        if life := self._environments.life(environment_id):
            life.set_jobs(sum(job.is_work for job in self._of(environment_id)))

    async def _run(self, job: Job, before: Sequence[Job]) -> None:
        try:
            await job.run(partial(self._attend, job.environment_id), self._notify, before)
        finally:
            if job.has_left:
                self.left.note(job.environment_id)
            self._count(job.environment_id)
            job.settle()
            self._notify(job)
            if jobs := self._jobs.get(job.environment_id):
                jobs.trim()
            if not jobs or jobs.by_number.get(job.number) is not job:
                job.close()  # its environment was destroyed or rolled back meanwhile

    async def _attend(self, environment_id: str, job: GuestJob) -> tuple[ExecutionResult, Guest]:
        """Follow a job to its end, in one guest after the other while its environment is paused."""
        while life := self._environments.life(environment_id):
            guest = await life.running_guest()
            try:
                return await guest.attend(job), guest
            except GuestLost as error:
                if not isinstance(error, Detached) and not life.continues_without(guest):
                    raise
        raise GuestLost("The environment is being destroyed.")

    def _changed(self, environment: Environment) -> None:
        is_paused = environment.state is State.PAUSED
        for job in self._of(environment.id):
            if job.is_running:
                job.set_paused(is_paused)

    async def adopt(self, environment: Environment, guest: Guest, *, anew: bool) -> None:
        """Take over the jobs that a guest brings along; see `Adopt`."""
        if not anew and environment.id in self._jobs:
            return  # they are this server's own, and wait for the guest
        found: tuple[FoundJob, ...] = ()
        with anyio.move_on_after(ADOPT_SECONDS):
            try:
                found = await guest.jobs()
            except (GuestLost, GuestMisbehaves) as error:
                log.warning("jobs_not_adopted", environment=environment.id, error=error.message)
        old = self._jobs.pop(environment.id, None) or JobTable()
        jobs = self._jobs[environment.id] = JobTable(last=old.last)
        for lost in old.by_number.values():
            lost.lose(GuestLost("The environment was rolled back to before this job's end."))
            if not lost.is_running:
                lost.close()
        notes = [(job, note) for job in found if (note := parse_note(job.note)) is not None]
        for one, note in sorted(notes, key=lambda pair: pair[1].number):
            if note.number not in jobs.by_number:
                self._take_over(environment.id, jobs, one, note)

    def _take_over(self, environment_id: str, jobs: JobTable, found: FoundJob, note: Note) -> None:
        what = What(note.kind, note.summary)
        command = Command((note.program or "program",), note.limit, user=note.user)
        job = self._job(environment_id, note, what, command, found.id)
        job.take_over(found)
        jobs.add(job)
        if found.is_running:
            self._begin(job)

    def _bytes(self) -> Counter[str]:
        """Return what output takes of the disk, by owner."""
        kept = Counter[str]()
        for environment in self._environments.all():
            kept[environment.owner] += sum(job.kept_bytes for job in self._of(environment.id))
        return kept

    def _of(self, environment_id: str) -> tuple[Job, ...]:
        jobs = self._jobs.get(environment_id)
        return tuple(jobs.by_number.values()) if jobs else ()

    def _queue(self, environment_id: str, name: str) -> builtins.list[Job]:
        """Return the jobs of that queue that have not ended, oldest first."""
        jobs = self._of(environment_id) if name else ()
        return [job for job in jobs if job.what.queue == name and job.is_running]

    async def get(self, environment_id: str, number: int, *, owner: str) -> Job:
        """Return a remembered job. This counts as use of a running environment.

        One that ended under an earlier server, or before a copy was made, is read from its guest
        first, which resumes a paused environment. Raises NotFound, InvalidArgument, JobNotFound,
        and then what `EnvironmentService.using` raises, or GuestLost.
        """
        job = self.known(environment_id, number, owner=owner)
        if job.is_unread:
            async with self._environments.using(job.environment_id, owner=owner) as (_, guest):
                await job.read_from(guest)
        return job

    def known(self, environment_id: str, number: int, *, owner: str) -> Job:
        """Return a job as `get` does, but without its output if that has to be read first."""
        environment = self._environments.touch(environment_id, owner=owner)
        jobs = self._jobs.get(environment.id)
        job = jobs.by_number.get(number) if jobs else None
        if job is None:
            raise JobNotFound(f"There is no job {number} in environment {environment.id}.")
        return job

    async def resume(self, job: Job, *, owner: str) -> None:
        """Resume its environment, if that is paused and the job runs. Raises as `using` does."""
        if job.is_running:
            async with self._environments.using(job.environment_id, owner=owner):
                pass

    async def kill(self, job: Job, *, owner: str) -> None:
        """End a job with all its processes, also those that it left running. Idempotent.

        Resumes a paused environment first. Raises as `using` does, or GuestLost.
        """
        await self.resume(job, owner=owner)
        await job.kill()
        await self.left.end_of(job, owner=owner)

    async def signal(self, job: Job, number: int, *, owner: str) -> bool:
        """Send a signal to a job's program and its process group; False if it has ended.

        Resumes a paused environment first. Raises as `using` does, or GuestLost.
        """
        async with self._environments.using(job.environment_id, owner=owner) as (_, guest):
            return job.is_running and await guest.signal(job.run_id, number)

    async def write(self, job: Job, data: bytes, *, close: bool, owner: str) -> bool:
        """Write to a job's standard input; see `Guest.write_input`. Raises as `signal` does."""
        async with self._environments.using(job.environment_id, owner=owner) as (_, guest):
            return job.is_running and await guest.write_input(job.run_id, data, close=close)

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
