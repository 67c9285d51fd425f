# SPDX-License-Identifier: Apache-2.0
"""Programs that calls have left running: which there are, of which jobs, and their end.

Part of `JobService`, called by `waggle.mcp`. What there is, the guest tells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import anyio

from waggle.domain.errors import GuestLost, GuestMisbehaves, JobNotFound
from waggle.domain.programs.execution import Left
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs.job import Job

LOOK_SECONDS = 5.0
"""How long a look at what was left waits for the guest."""

JobsOf = Callable[[str], Iterable[Job]]


@dataclass(frozen=True, slots=True)
class LeftRunning:
    """A program that goes on, and the number of the job that left it, where that is known."""

    pid: int
    command: str
    job: int | None


@dataclass(frozen=True, slots=True)
class LeftList:
    """Some of them, and how many there are."""

    programs: tuple[LeftRunning, ...] = ()
    count: int = 0


class Leftovers:
    """Of all environments of one server."""

    def __init__(self, environments: EnvironmentService, jobs_of: JobsOf) -> None:
        self._environments = environments
        self._jobs_of = jobs_of
        self._noted: set[str] = set()

    def note(self, environment_id: str) -> None:
        """A job has left something running there."""
        self._noted.add(environment_id)

    def forget(self, environment_id: str) -> None:
        """It is gone."""
        self._noted.discard(environment_id)

    async def look(self, environment_id: str, *, owner: str, always: bool = True) -> LeftList:
        """Those of one environment; unless `always`, asked for only where something was left.

        None while it does not run, or when its guest does not answer within seconds. Not a use of
        it. Raises NotFound or InvalidArgument.
        """
        environment = self._environments.get(environment_id, owner=owner)
        left, ask = Left(), always or environment.id in self._noted
        self._noted.discard(environment.id)  # the environment remembers it from now on
        with anyio.move_on_after(LOOK_SECONDS), contextlib.suppress(GuestLost, GuestMisbehaves):
            left = await self._environments.left(environment.id, owner=owner, always=ask)
        return self._told(environment.id, left)

    def _told(self, environment_id: str, left: Left) -> LeftList:
        numbers = {job.run_id: job.number for job in self._jobs_of(environment_id) if job.run_id}
        programs = (
            LeftRunning(each.pid, each.command, numbers.get(each.run_id)) for each in left.programs
        )
        return LeftList(tuple(programs), left.count)

    async def end(self, environment_id: str, pid: int, *, owner: str) -> None:
        """Kill one with its descendants.

        Raises JobNotFound where no call has left a program of that number running, NotFound,
        NotRunning, InvalidArgument or GuestLost.
        """
        async with self._environments.using(environment_id, owner=owner) as (environment, guest):
            if not await guest.end_program(pid):
                raise JobNotFound(
                    f"No call has left a program {pid} running in environment {environment.id}.",
                    hint="Call read_job without a job_id to see which there are.",
                )

    async def end_of(self, job: Job, *, owner: str) -> int:
        """Kill all that a job which has ended has left; how many programs that were.

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
