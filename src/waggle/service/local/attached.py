# SPDX-License-Identifier: Apache-2.0
"""The part of a guest on this host that runs programs. `LocalGuest` is made of it.

Knows the connection's jobs, and what names the cause of a broken call; nothing of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from waggle.domain.programs import Command, ExecutionResult, Left
from waggle.domain.programs.guest_job import FoundJob, GuestJob, Terminal
from waggle.infra.ssh.run import LeftPrograms
from waggle.infra.ssh.run.again import once_more
from waggle.infra.ssh.run.jobs import GuestJobs, anonymous_job


class JobsOfGuest:
    """The jobs of one guest. `used` is called before a program may change files."""

    def __init__(
        self,
        jobs: GuestJobs,
        left: LeftPrograms,
        used: Callable[[], None],
        naming_the_cause: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._jobs = jobs
        self._left = left
        self._used = used
        self._naming_the_cause = naming_the_cause

    async def run(self, command: Command) -> ExecutionResult:
        """Run a command; see `domain.host.Guest`."""
        return await self.attend(anonymous_job(command))

    async def attend(self, job: GuestJob) -> ExecutionResult:
        """Follow a job; see `domain.host.Guest`."""
        self._used()
        async with self._naming_the_cause():
            return await self._jobs.attend(job)

    async def jobs(self) -> tuple[FoundJob, ...]:
        """List its jobs; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await once_more(self._jobs.all)

    async def write_input(self, job_id: str, data: bytes, *, close: bool) -> bool:
        """Write to a job; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._jobs.write(job_id, data, close=close)

    async def signal(self, job_id: str, number: int) -> bool:
        """Signal a job; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._jobs.signal(job_id, number)

    async def resize(self, job_id: str, terminal: Terminal) -> bool:
        """Resize a job's terminal; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._jobs.resize(job_id, terminal)

    async def left_running(self) -> Left:
        """Return what was left running; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await once_more(self._left.all)

    async def end_program(self, pid: int) -> bool:
        """Kill one of them; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._left.end(pid)

    async def end_run(self, run_id: str) -> None:
        """Kill all that one run left; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            await self._left.end_run(run_id)
