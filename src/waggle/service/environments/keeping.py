# SPDX-License-Identifier: Apache-2.0
"""Keeps the best of several forks in the place of their original.

Called by `waggle.mcp`. Nothing is destroyed before the fork has the original's name on record; a
call that was interrupted after that can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        """Give a fork its original's name; destroy that and the other forks of the same call.

        Idempotent. Finishes when the caller is cancelled. Raises NotFound, NotRunning,
        InvalidArgument if it is no fork, or the original is gone and its name taken; Busy while
        the call still makes forks or another fork of the original is being kept; or what the store
        raises. Then nothing is destroyed.
        """
        fork = self._environments.get(environment_id, owner=owner)
        if fork.fork_of is None:
            raise InvalidArgument(
                f"Environment {fork.id} is not a fork.",
                hint="fork_environment makes forks; destroy_environment ends any environment.",
            )
        if fork.state is not State.PAUSED:
            fork.require_running()
        original = fork.fork_of.id
        if self._keeping.setdefault(original, fork.id) != fork.id:
            raise Busy(
                f"Fork {self._keeping[original]} is being kept, and the others are destroyed.",
                hint="list_environments shows which are left.",
            )
        try:
            return await finish(self._keep(fork, fork.fork_of))
        finally:
            self._keeping.pop(original, None)

    async def _keep(self, fork: Environment, origin: Origin) -> Kept:
        life = self._environments.life(fork.id)
        if life is None:
            raise NotFound(f"There is no environment {fork.id}.")
        own = self._environments.list(owner=fork.owner)
        replaced = [other for other in own if other.is_replaced_with(fork)]
        if any(other.state is State.CREATING for other in replaced):
            raise Busy(f"The call that makes {fork.id} still makes other forks.")
        original = next((other for other in own if other.id == origin.id), None)
        if original is not None:
            origin = replace(origin, name=original.name)  # it may be a fork that was kept itself
        elif fork.name != origin.name:
            _require_free(origin.name, own)
        return await self._clear(await life.take_name(origin), replaced)

    async def _clear(self, kept: Environment, others: Sequence[Environment]) -> Kept:
        """Destroy the original and its other forks, all at once."""
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


def _require_free(name: str, own: Sequence[Environment]) -> None:
    """Raise InvalidArgument if one of them has that name."""
    for other in own:
        if other.name == name:
            raise InvalidArgument(
                f"The original is gone, and environment {other.id} has its name, {name}, by now.",
                hint="Use the fork by its own name or id, or destroy that environment first.",
            )
