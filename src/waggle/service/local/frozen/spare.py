# SPDX-License-Identifier: Apache-2.0
"""The spare context of a template: an interpreter that waits for its first code.

Called while a template is made. The first context of an environment that starts from it is this one
(`domain.programs.context.SPARE_CONTEXT`). Knows the guest's jobs, and nothing of templates.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from waggle.domain.programs import Command, GuestUser, Output
from waggle.domain.programs.context import RUNNERS, SPARE_CONTEXT
from waggle.domain.programs.guest_job import Attributes, Detached, GuestJob, JobStreams
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.run.jobs import GuestJobs
from waggle.tasks import end

SECONDS: Final = 120.0
"""How long an interpreter may take to be ready, in a machine that gives way to all others."""
_KEEP: Final = 64 << 10
_COMPILE: Final = ("-B", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", RUNNERS)
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _FirstWord:
    """A stream that only notes that something came."""

    came: asyncio.Event = field(default_factory=asyncio.Event)

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.came.set()

    def skip(self, count: int) -> None:
        """Take note of bytes that are missing."""

    def output(self) -> Output:
        """Return nothing."""
        return Output(b"")


async def hold_ready(connection: SshConnection, driver: Command) -> bool:
    """Start the context and leave it in the guest once it is ready; False if it is not.

    Without it a context only starts more slowly. First root leaves byte code of the kit's modules,
    where their users cannot. Raises GuestLost.
    """
    compiling = Command((driver.argv[0], *_COMPILE), SECONDS, user=GuestUser.ROOT)
    if (await Shell(connection).run(compiling)).exit_code != 0:
        log.warning("modules_not_compiled", program=driver.argv[0])
    jobs, out = GuestJobs(connection), _FirstWord()
    streams = JobStreams(out, _FirstWord(), _FirstWord())
    attributes = Attributes(keep=_KEEP, has_driver=True)
    spare = GuestJob(SPARE_CONTEXT, driver, streams, driver.timeout, attributes)
    following = asyncio.ensure_future(jobs.attend(spare))
    ready = asyncio.ensure_future(out.came.wait())
    try:
        await asyncio.wait({following, ready}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not following.done() and out.came.is_set():
            jobs.detach()
            await asyncio.wait({following})
            return isinstance(following.exception(), Detached)
        log.warning("context_not_held_ready", program=driver.argv[0])
        return False
    finally:
        await end(following, ready)
