# SPDX-License-Identifier: Apache-2.0
"""Programs that jobs have left running, as the guest reports them, and their end.

`JobService` has one of these for all environments; `waggle.mcp` lists and ends programs with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import anyio

from waggle.domain.errors import GuestLost, GuestMisbehaves, JobNotFound
from waggle.domain.programs import Left
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs import Job

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
        numbers = {job.run_id: job.number for job in self._jobs_of(environment.id)}
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
