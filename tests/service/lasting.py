# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests of jobs that last: start one, let it end, copy its environment."""

from __future__ import annotations

from tests.service.snapshotting import Here
from tests.service.world import LONG, OWNER, Guest, World, settle

from waggle.domain.programs import Command
from waggle.domain.programs.guest_job import Attributes
from waggle.domain.programs.job import JobKind, JobView
from waggle.service.environments.creating import CopyRequest
from waggle.service.programs import Job, What
from waggle.service.programs.jobs import JobService

LIMIT = 600.0


async def start(
    jobs: JobService,
    environment: str,
    code: str = "echo one\nhang\necho two",
    kind: JobKind = JobKind.EXECUTE,
    *,
    keeps_input: bool = False,
) -> Job:
    command = Command(("python3", "{file}"), timeout=LIMIT, code=code.encode())
    what = What(kind, "a test", attributes=Attributes(keeps_input=keeps_input))
    job = await jobs.start(environment, command, what, owner=OWNER)
    await settle()
    return job


def guest_of(here: World, environment: str) -> Guest:
    return here.host.guests[environment]


async def resumed(here: World, environment: str) -> None:
    await here.service.resume(environment, owner=OWNER)


async def ended(jobs: JobService, here: World, environment: str, number: int = 1) -> JobView:
    """Let what hangs in the guest go on, and return how the job ended."""
    guest_of(here, environment).release.set()
    job = await jobs.get(environment, number, owner=OWNER)
    await job.wait(LONG)
    return job.view()


async def copy(around: Here, origin: str, how: str) -> str:
    """Return a copy of an environment: a fork, or one from a snapshot."""
    if how == "fork":
        (made,) = await around.service.fork(origin, 1, owner=OWNER)
    else:
        kept = await around.service.take(origin, owner=OWNER)
        made = await around.service.create(kept.id, CopyRequest(), owner=OWNER)
    return made.id
