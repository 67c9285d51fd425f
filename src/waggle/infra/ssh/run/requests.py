# SPDX-License-Identifier: Apache-2.0
"""Requests about the jobs of one guest that it answers at once: list, write to, signal, resize.

The base of `GuestJobs`. Each takes at most _SECONDS. The guest's answers are parsed in `following`.
"""

from __future__ import annotations

import asyncio

from waggle.domain.errors import GuestLost, TimedOut, WaggleError
from waggle.domain.programs.guest_job import FoundJob, Terminal
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run import CALL_AGAIN, ask
from waggle.infra.ssh.run.again import Interrupted
from waggle.infra.ssh.run.following import MAX_LIST, InvalidFrame, parse_jobs
from waggle.infra.ssh.run.launcher import CommandSession

_SECONDS = 20.0


class JobRequests:
    """Asks one guest about its jobs."""

    def __init__(self, connection: SshConnection, *, seconds: float = _SECONDS) -> None:
        """`seconds` is how long the guest may take for an answer."""
        self._connection = connection
        self._seconds = seconds

    async def all(self) -> tuple[FoundJob, ...]:
        """See `domain.host.Guest.jobs`."""
        answer = await self._ask("jobs", MAX_LIST)
        stdout = answer.stdout.output()
        try:
            return parse_jobs(stdout.head + stdout.tail)
        except InvalidFrame as error:
            raise GuestLost(f"The guest lists its jobs in an invalid form: {error}.") from error

    async def write(self, job_id: str, data: bytes, *, close: bool) -> bool:
        """See `domain.host.Guest.write_input`."""
        question = f"{'close' if close else 'input'} {job_id}"
        late = TimedOut(
            f"The program did not read all of its input within {self._seconds:g} s; a part may "
            "have arrived.",
            hint="See with read_job what it prints before you write more.",
        )
        return _agreed(await self._ask(question, stdin=data, late=late))

    async def signal(self, job_id: str, number: int) -> bool:
        """See `domain.host.Guest.signal`."""
        return _agreed(await self._ask(f"signal {job_id} {number}"))

    async def resize(self, job_id: str, terminal: Terminal) -> bool:
        """See `domain.host.Guest.resize`."""
        question = f"resize {job_id} {terminal.rows} {terminal.columns}"
        return _agreed(await self._ask(question))

    async def _ask(
        self,
        question: str,
        limit: int = 1_000,
        *,
        stdin: bytes = b"",
        late: WaggleError | None = None,
    ) -> CommandSession:
        """Ask the launcher. Raises GuestLost, Interrupted without an answer, or `late` in time."""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await ask(self._connection, question, limit, stdin)
        except TimeoutError:
            raise late or GuestLost("The guest does not answer about its jobs.") from None
        if answer.exit_code is None:
            raise Interrupted(
                "The connection to the guest broke before it answered about a job.", hint=CALL_AGAIN
            )
        return answer


def _agreed(answer: CommandSession) -> bool:
    """Whether the guest did what it was asked. Raises GuestLost if the job's holder is gone."""
    if answer.exit_code not in (0, 1):
        raise GuestLost(
            "The process in the guest that holds the job does not answer.", hint=CALL_AGAIN
        )
    return answer.exit_code == 0
