# SPDX-License-Identifier: Apache-2.0
"""Input and signals for jobs that run. `JobService` has one of these; `waggle.mcp` calls it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from waggle.domain.errors import Busy, InvalidArgument, JobEnded, TooLarge
from waggle.domain.host import Guest
from waggle.domain.programs.guest_job import Terminal
from waggle.domain.programs.job import MAX_INPUT_BYTES, SIGNALS, JobKind, parse_signal
from waggle.domain.programs.runtime import encoded
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs import Job

_INTERRUPTS = (SIGNALS["INT"], SIGNALS["TERM"])
BEGIN_SECONDS = 10.0
"""How long a call waits for a job that its guest has not started yet, or that waits its turn."""


class Control:
    """Reaches the programs of running jobs, in the guest that their environment has now.

    All resume a paused environment first. They raise JobEnded, Busy, InvalidArgument, GuestLost,
    and what `EnvironmentService.using` raises.
    """

    def __init__(self, environments: EnvironmentService) -> None:
        self._environments = environments

    async def write(self, job: Job, text: str, *, close: bool, owner: str) -> int:
        """Write to a job's standard input, and with `close` end it; return the count of bytes.

        Raises TimedOut, too, if the program does not read. Not idempotent.
        """
        data = parse_input(text)
        await self.feed(job, data, close=close, owner=owner)
        return len(data)

    async def feed(self, job: Job, data: bytes, *, close: bool = False, owner: str) -> None:
        """Write bytes as `write` does."""
        async with self._reached(job, owner) as guest:
            if not await guest.write_input(job.run_id, data, close=close):
                if not job.is_running:
                    raise _ended(job)
                raise InvalidArgument(
                    f"Job {job.number} takes no input: it was started without stdin_open, or its "
                    "standard input is closed.",
                    hint="Start the program with stdin_open and background to write to it later.",
                )

    async def signal(self, job: Job, name: str, *, owner: str) -> None:
        """Send a signal, by its name, to a job's program and its process group.

        Code in a context has no process of its own: it can only be interrupted.
        """
        number = parse_signal(name)
        if not job.is_running:
            raise _ended(job)
        if job.what.context is not None and job.what.kind is not JobKind.CONTEXT:
            if number not in _INTERRUPTS:
                raise InvalidArgument(
                    f"Job {job.number} is code in {job.what.context}, which takes only INT and "
                    "TERM: both interrupt it.",
                    hint="To end it whatever it does, kill it without a signal; its variables stay "
                    "if it reacts to that.",
                )
            number = SIGNALS["INT"]
        async with self._reached(job, owner) as guest:
            if not await guest.signal(job.run_id, number):
                raise _ended(job)

    async def resize(self, job: Job, size: Terminal, *, owner: str) -> bool:
        """Set the size of a job's terminal; False if it has none."""
        async with self._reached(job, owner) as guest:
            return await guest.resize(job.run_id, size)

    @asynccontextmanager
    async def _reached(self, job: Job, owner: str) -> AsyncGenerator[Guest]:
        """Yield the guest that runs it, once the program has begun."""
        if not job.is_running:
            raise _ended(job)
        async with self._environments.using(job.environment_id, owner=owner) as (_, guest):
            with anyio.move_on_after(BEGIN_SECONDS) as waiting:
                await job.begun()
            if not job.is_running:
                raise _ended(job)
            if waiting.cancelled_caught:
                raise Busy(
                    f"Job {job.number} has not begun yet.",
                    hint="Call again once the jobs before it have ended.",
                )
            yield guest


def parse_input(text: str) -> bytes:
    """Return what to write to a job. Raises InvalidArgument or TooLarge."""
    data = encoded(text, "text")
    if len(data) > MAX_INPUT_BYTES:
        raise TooLarge(
            f"The text has {len(data)} bytes; one call writes at most {MAX_INPUT_BYTES}.",
            hint="Write it in several calls, or into a file with write_file.",
        )
    return data


def _ended(job: Job) -> JobEnded:
    return JobEnded(f"Job {job.number} has ended.")
