# SPDX-License-Identifier: Apache-2.0
"""An environment with contexts, for tests of what runs in them."""

from __future__ import annotations

from tests.service.executing import LIMITS, RUNTIMES
from tests.service.world import LONG, OWNER, World
from tests.support.fake_contexts import FakeContext

from waggle.domain.environment import Environment
from waggle.domain.programs.job import JobView
from waggle.service.programs import Job
from waggle.service.programs.execution import ExecutionService


class Rig:
    """An environment with contexts."""

    def __init__(self, here: World, environment: Environment) -> None:
        self.here, self.environment = here, environment
        self.jobs = here.jobs()
        self.execution = ExecutionService(here.service, self.jobs, RUNTIMES, LIMITS)

    async def start(self, code: str, context: str | None = "main", **how: object) -> Job:
        return await self.execution.execute(
            self.environment.id,
            code,
            owner=OWNER,
            context=context,
            **{"language": "python", **how},  # pyright: ignore[reportArgumentType]
        )

    async def run(self, code: str, context: str | None = "main", **how: object) -> JobView:
        return await (await self.start(code, context, **how)).attend(LONG)

    async def get(self, number: int) -> Job:
        return await self.jobs.get(self.environment.id, number, owner=OWNER)

    @property
    def context(self) -> FakeContext:
        """The newest interpreter in the guest."""
        return list(self.here.host.only.contexts.values())[-1]


def code_of(view: JobView) -> str:
    return view.diagnosis.code if view.diagnosis else ""
