# SPDX-License-Identifier: Apache-2.0
"""Starts jobs and follows them to their end, in whatever guest their environment has.

The base of `JobService`, which is all that others use. The program and its output belong to the
guest: a job follows it there, waits while its environment is paused, and goes on in the guest that
this becomes. Code of a context starts that context's interpreter first, if there is none.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.diagnosis.reach import refusal
from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost, TooManyJobs
from waggle.domain.host import Guest
from waggle.domain.observer import Clock, NewId
from waggle.domain.programs import Command, ExecutionResult, GuestUser, NewRecording
from waggle.domain.programs.context import MAX_CONTEXTS, SPARE_CONTEXT, ContextKey
from waggle.domain.programs.guest_job import Attributes, Detached, GuestJob
from waggle.domain.programs.job import JobKind, Recorded
from waggle.service.environments.service import EnvironmentService
from waggle.service.files import located
from waggle.service.programs import Job, What
from waggle.service.programs.control import Control
from waggle.service.programs.leftovers import Leftovers
from waggle.service.programs.notes import Note
from waggle.service.programs.table import JobTable

MAX_RUNNING = 16
"""The most jobs that run in one environment at once."""
CONTEXT_KEEP = 256 << 10
"""Bytes kept of what a context prints between cells."""
Changed = Callable[[Job, Recorded | None], None]
"""Called when a job has printed or displayed or, with None, has started or ended. It must not raise
or wait."""


class JobStarter:
    """The jobs of one server that run, in the task group `tasks`."""

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        record: NewRecording,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        keep: int = 1 << 20,
        new_id: NewId = lambda: str(uuid.uuid4()),
    ) -> None:
        """`keep` is the bytes that guests keep of the beginning of each stream."""
        self._environments = environments
        self._record = record
        self._clock = clock
        self._tasks = tasks
        self._keep = keep
        self._new_id = new_id
        self._jobs: dict[str, JobTable] = {}
        self._listeners: list[Changed] = []
        self.left = Leftovers(environments, self._of)
        """The programs that jobs left running."""
        self.control = Control(environments)
        """Input and signals for running jobs."""

    def when_changed(self, notify: Changed) -> None:
        """Call `notify` when a job starts, prints or ends; see `Changed`."""
        self._listeners.append(notify)

    def _notify(self, job: Job, stream: Recorded | None = None) -> None:
        for notify in self._listeners:
            notify(job, stream)

    async def start(
        self,
        environment_id: str,
        command: Command,
        what: What,
        *,
        owner: str,
        driver: Command | None = None,
    ) -> Job:
        """Start a program and return its job, which does not need a waiting caller.

        With a `turn` it may be a job that exists already; see `What`. Code of a context runs in it;
        `driver` is the command of its interpreter, which starts if the environment has none.
        Raises NotFound, NotRunning, InvalidArgument or TooManyJobs.
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
            self._require_room(environment.id)
            context = None
            if driver is not None and what.context is not None:
                context = self._context(environment, driver, what.context)
            job = self._admit(environment, command, what, context)
            self._begin(job, queue)
            return job

    def _context(self, environment: Environment, driver: Command, key: ContextKey) -> Job:
        """Return the job of a context, which is begun if there is none."""
        contexts = self._jobs.setdefault(environment.id, JobTable()).contexts()
        if key in contexts:
            return contexts[key]
        if len(contexts) >= MAX_CONTEXTS:
            names = ", ".join(f"{one.label} (job {job.number})" for one, job in contexts.items())
            raise TooManyJobs(
                f"Environment {environment.id} has {MAX_CONTEXTS} contexts: {names}.",
                hint="Use one of them, or end one with read_job and its kill.",
            )
        what = What(
            JobKind.CONTEXT,
            key.label,
            attributes=Attributes(keep=CONTEXT_KEEP, has_driver=True),
            context=key,
        )
        is_own = key.language is environment.runtime.language and key.user is GuestUser.SANDBOX
        is_spare = is_own and not self._jobs[environment.id].used_spare
        run_id = SPARE_CONTEXT if is_spare else self._new_id()
        job = self._admit(environment, driver, what, run_id=run_id)
        self._begin(job)
        return job

    def _require_room(self, environment_id: str) -> None:
        """Raise TooManyJobs if one more may not run; contexts are counted apart."""
        if self.running(environment_id) >= MAX_RUNNING:
            raise TooManyJobs(f"{MAX_RUNNING} jobs run in environment {environment_id}.")

    def _admit(
        self,
        environment: Environment,
        command: Command,
        what: What,
        context: Job | None = None,
        run_id: str | None = None,
    ) -> Job:
        jobs = self._jobs.setdefault(environment.id, JobTable())
        keep = min(what.attributes.keep, self._keep)
        inside = context.run_id if context else ""
        what = replace(what, attributes=replace(what.attributes, keep=keep, context=inside))
        key = what.context
        note = Note(
            number=jobs.last + 1,
            kind=what.kind,
            summary=what.summary,
            limit=command.timeout,
            program=command.argv[0],
            user=command.user,
            context=key.name if key else "",
            language=key.language if key else "",
            context_id=inside,
        )
        job = self._job(environment.id, note, what, command, run_id or self._new_id(), context)
        jobs.add(job)
        return job

    def _job(
        self,
        environment_id: str,
        note: Note,
        what: What,
        command: Command,
        run_id: str,
        context: Job | None = None,
    ) -> Job:
        job = Job(
            environment_id,
            note,
            what,
            command,
            self._record,
            self._clock,
            run_id=run_id,
            context=context,
        )
        job.refused_within = partial(self._refused_within, environment_id)
        return job

    def _refused_within(self, environment_id: str, seconds: float) -> Diagnosis | None:
        """Return what its environment was refused in that time, and what can be done."""
        life = self._environments.life(environment_id)
        guest = life.current_guest if life else None
        use = guest.network_use() if guest else None
        if life is None or use is None:
            return None
        return refusal(use.denied_within(seconds), use.network, life.environment.name)

    def _begin(self, job: Job, before: Sequence[Job] = ()) -> None:
        """Follow it in a task of its own, from the end of the jobs before it."""
        if before:
            job.queue()
        self._count(job.environment_id)
        self._tasks.start_soon(self._run, job, before)
        self._notify(job)

    def _count(self, environment_id: str) -> None:
        if life := self._environments.life(environment_id):
            jobs = self._of(environment_id)
            last = max((job.number for job in jobs), default=0)
            life.set_jobs(sum(job.is_work for job in jobs), last)

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
            await anyio.lowlevel.checkpoint_if_cancelled()  # a lost one does not reach its copy
            try:
                return await guest.attend(job), guest
            except GuestLost as error:
                if not isinstance(error, Detached) and not life.continues_without(guest):
                    raise life.lost() or error from error
        raise GuestLost("The environment is being destroyed.")

    def _of(self, environment_id: str) -> tuple[Job, ...]:
        jobs = self._jobs.get(environment_id)
        return tuple(jobs.by_number.values()) if jobs else ()

    def _queue(self, environment_id: str, name: str) -> builtins.list[Job]:
        """Return the jobs of that queue that have not ended, oldest first."""
        jobs = self._of(environment_id) if name else ()
        return [job for job in jobs if job.what.queue == name and job.is_running]

    def running(self, environment_id: str) -> int:
        """Return how many jobs run in an environment, apart from its contexts."""
        return sum(
            job.is_running and job.what.kind is not JobKind.CONTEXT
            for job in self._of(environment_id)
        )
