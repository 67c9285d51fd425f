# SPDX-License-Identifier: Apache-2.0
"""Jobs: programs that outlive their calls, their connection and their machine's pauses.

`ExecutionService` starts jobs (`starting`); `waggle.mcp` reads and ends them by number. `adopt`
makes jobs of what a copy, or a machine of an earlier server, brings along. A job keeps its
environment from being idle; its record goes with that of the environment. Output is kept within
bounds: the oldest ended jobs are forgotten first.
"""

from __future__ import annotations

from collections import Counter

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import GuestLost, GuestMisbehaves, JobNotFound, WaggleError
from waggle.domain.host import Guest
from waggle.domain.observer import Clock
from waggle.domain.programs import Command, GuestUser, NewRecording
from waggle.domain.programs.context import MAX_CONTEXTS
from waggle.domain.programs.guest_job import FoundJob
from waggle.domain.programs.job import JobBrief, JobKind
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs import Job
from waggle.service.programs.notes import Note, parse_note
from waggle.service.programs.record import adopted_what
from waggle.service.programs.starting import MAX_RUNNING, JobStarter
from waggle.service.programs.table import JobTable

ADOPT_SECONDS = 10.0
"""How long `JobService.adopt` waits for a guest's list."""
log = structlog.get_logger(__name__)


class JobService(JobStarter):
    """All jobs of one server."""

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        record: NewRecording,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        keep: int = 1 << 20,
    ) -> None:
        super().__init__(environments, record=record, clock=clock, tasks=tasks, keep=keep)
        environments.events.when_removed(self._forget)
        environments.events.when_changed(self._changed)
        environments.events.when_adopted(self.adopt)
        environments.events.when_lost(self._lose)
        environments.events.when_frozen(self._settle)
        environments.disk.count(self._bytes)

    def _changed(self, environment: Environment) -> None:
        is_paused = environment.state is State.PAUSED
        for job in self._of(environment.id):
            if job.is_running:
                job.set_paused(is_paused)

    async def _settle(self, environment_id: str) -> None:
        """Wait until the guest has what was just started, so that it outlives this server."""
        with anyio.move_on_after(ADOPT_SECONDS):
            while new := next((job for job in self._of(environment_id) if job.is_new), None):
                await new.begun()

    def _lose(self, environment_id: str, error: WaggleError) -> None:
        """End all jobs that run as lost; what the others printed can still be read here."""
        for job in self._of(environment_id):
            job.lose(error)

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
            except Exception:
                log.exception("jobs_not_adopted", environment=environment.id)
        old = self._jobs.pop(environment.id, None) or JobTable()
        jobs = self._jobs[environment.id] = JobTable(last=environment.last_job)
        for lost in old.by_number.values():
            lost.lose(GuestLost("The environment was rolled back to before this job's end."))
            if not lost.is_running:
                lost.close()
        notes = [(job, note) for job in found if (note := parse_note(job.note)) is not None]
        for one, note in sorted(notes, key=lambda pair: pair[1].number):
            if note.number not in jobs.by_number and self._may_run(one, note, jobs):
                self._take_over(environment.id, jobs, one, note)

    def _may_run(self, found: FoundJob, note: Note, jobs: JobTable) -> bool:
        """Return whether there is room for it beside those that run, as there is for new ones."""
        if not found.is_running:
            return True
        is_context = note.kind is JobKind.CONTEXT
        beside = [job.is_context for job in jobs.by_number.values() if job.is_running]
        return beside.count(is_context) < (MAX_CONTEXTS if is_context else MAX_RUNNING)

    def _take_over(self, environment_id: str, jobs: JobTable, found: FoundJob, note: Note) -> None:
        others = jobs.by_number.values()
        inside = next((job for job in others if job.run_id == note.context_id), None)
        what = adopted_what(note)
        command = Command((note.program or "program",), note.limit, user=note.user)
        job = self._job(environment_id, note, what, command, found.id, inside)
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

    async def get(self, environment_id: str, number: int, *, owner: str) -> Job:
        """Return a remembered job. This counts as use of a running environment.

        One that ended under an earlier server, or before a copy was made, is read from its guest
        first, which resumes a paused environment. Raises NotFound, InvalidArgument, JobNotFound,
        and then what `EnvironmentService.using` raises, or GuestLost.
        """
        await self._recall(environment_id, owner)
        job = self.known(environment_id, number, owner=owner)
        if job.is_unread:
            async with self._environments.using(job.environment_id, owner=owner) as (_, guest):
                await job.read_from(guest)
        await job.caught_up()
        return job

    async def _recall(self, environment_id: str, owner: str) -> None:
        """Resume an environment that an earlier server paused to disk: only its guest knows."""
        environment = self._environments.get(environment_id, owner=owner)
        if environment.is_on_disk and environment.id not in self._jobs:
            async with self._environments.using(environment.id, owner=owner):
                pass

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

    def newest(self, environment_id: str, count: int, *, owner: str) -> tuple[Job, ...]:
        """Return the last `count` jobs, newest first. Raises NotFound or InvalidArgument."""
        environment = self._environments.get(environment_id, owner=owner)
        return self._of(environment.id)[::-1][:count]

    async def list(self, environment_id: str, *, owner: str) -> tuple[JobBrief, ...]:
        """Return the remembered jobs, oldest first. This counts as use, as with `get`.

        Raises NotFound, InvalidArgument, or as `get` if a guest must be asked.
        """
        await self._recall(environment_id, owner)
        environment = self._environments.touch(environment_id, owner=owner)
        return tuple(job.brief() for job in self._of(environment.id))

    def going(self, environment_id: str) -> tuple[JobBrief, ...]:
        """Return the jobs that have not ended, oldest first. Not a use of the environment."""
        return tuple(job.brief() for job in self._of(environment_id) if job.is_running)

    async def only_context(self, environment_id: str, *, owner: str) -> str | None:
        """Return the name of the one context of the environment's own language and user, or None.

        Raises NotFound, InvalidArgument, or as `get` if a guest must be asked.
        """
        await self._recall(environment_id, owner)
        environment = self._environments.get(environment_id, owner=owner)
        table = self._jobs.get(environment.id, JobTable())
        language, user = environment.runtime.language, GuestUser.SANDBOX
        names = [
            key.name for key in table.contexts() if (key.language, key.user) == (language, user)
        ]
        return names[0] if len(names) == 1 else None

    def _forget(self, environment_id: str) -> None:
        self.left.forget(environment_id)
        if jobs := self._jobs.pop(environment_id, None):
            for job in jobs.by_number.values():
                if not job.is_running:
                    job.close()
