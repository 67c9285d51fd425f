# SPDX-License-Identifier: Apache-2.0
"""Keeps the best of several forks in the place of their original.

Called by `waggle.mcp`. Nothing is destroyed before the fork has the original's name on record; a
call that was interrupted after that can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import structlog

from waggle.domain.environment import Environment, Origin, State
from waggle.domain.errors import Busy, InvalidArgument, NotFound, WaggleError
from waggle.service.environments.service import EnvironmentService
from waggle.tasks import finish

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """The fork that was kept, and the original and other forks that could not be destroyed yet."""

    environment: Environment
    destroyed: tuple[Environment, ...] = ()
    left: tuple[Environment, ...] = ()


class Keeper:
    """Use case of forks: keep one."""

    def __init__(self, environments: EnvironmentService) -> None:
        self._environments = environments
        self._keeping: dict[str, str] = {}
        """The fork that is being kept, by the id of its original."""

    async def keep(self, environment_id: str, *, owner: str) -> Kept:
        """Give a fork its original's name; destroy the original and its other forks. Idempotent.

        Finishes when the caller is cancelled. Raises NotFound, NotRunning, InvalidArgument if it is
        no fork, Busy while another fork of the original is being kept, or what the store raises;
        then nothing is destroyed.
        """
        fork = self._environments.get(environment_id, owner=owner)
        if fork.fork_of is None:
            raise InvalidArgument(
                f"Environment {fork.id} is not a fork.",
                hint="fork_environment makes forks; destroy_environment ends any environment.",
            )
        if fork.state is not State.PAUSED:
            fork.require_running()
        origin = fork.fork_of.id
        if self._keeping.setdefault(origin, fork.id) != fork.id:
            raise Busy(
                f"Fork {self._keeping[origin]} is being kept, and the others are destroyed.",
                hint="list_environments shows which are left.",
            )
        try:
            return await finish(self._keep(fork, fork.fork_of))
        finally:
            self._keeping.pop(origin, None)

    async def _keep(self, fork: Environment, origin: Origin) -> Kept:
        life = self._environments.life(fork.id)
        if life is None:
            raise NotFound(f"There is no environment {fork.id}.")
        return await self._clear(await life.rename(origin.name), origin.id)

    async def _clear(self, kept: Environment, origin: str) -> Kept:
        """Destroy the original and its other forks, all at once."""
        others = [
            other
            for other in self._environments.list(owner=kept.owner)
            if other.id != kept.id
            and (other.id == origin or (other.fork_of and other.fork_of.id == origin))
        ]
        destroyed: list[Environment] = []

        async def end(other: Environment) -> None:
            try:
                await self._environments.destroy(other.id, owner=kept.owner)
            except (WaggleError, OSError) as error:
                log.warning("fork_not_destroyed", environment=other.id, error=str(error))
            else:
                destroyed.append(other)

        async with anyio.create_task_group() as group:
            for other in others:
                group.start_soon(end, other)
        left = tuple(other for other in others if other not in destroyed)
        return Kept(kept, tuple(other for other in others if other in destroyed), left)
