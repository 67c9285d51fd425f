# SPDX-License-Identifier: Apache-2.0
"""The environment of a call, which the call names or which is made for it.

Called by `waggle.mcp`. A new environment stays once the call has done something in it; until then
it ends with the call, so that a cancelled call leaves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import anyio
import structlog

from waggle.domain.environment import Environment
from waggle.domain.errors import MaxEnvironments, NotFound, QuotaExceeded, WaggleError
from waggle.domain.host import Progress, no_progress
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.service import EnvironmentService

_MAX_LISTED = 5
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Place:
    """The environment in which a call works. `is_new` says that the call made it."""

    environment: Environment
    is_new: bool = False
    kept: bool = False

    @property
    def id(self) -> str:
        """The environment's id."""
        return self.environment.id

    def keep(self) -> None:
        """Let it outlive the call, because something was done in it."""
        self.kept = True


@contextlib.asynccontextmanager
async def provided(
    environments: EnvironmentService,
    reference: str | None,
    request: Callable[[], CreateRequest],
    *,
    owner: str,
    progress: Progress = no_progress,
) -> AsyncGenerator[Place]:
    """Yield the caller's environment, or a new one that is destroyed at the end unless kept.

    `request` describes the new one. Raises as `EnvironmentService.get` and `create` do.
    """
    if reference:
        yield Place(environments.get(reference, owner=owner))
        return
    wanted = request()
    try:
        made = await environments.create(wanted, owner=owner, progress=progress)
    except (MaxEnvironments, QuotaExceeded) as error:
        raise type(error)(error.message, hint=_instead(environments, owner)) from error
    async with lasting(environments, made) as place:
        yield place


@contextlib.asynccontextmanager
async def lasting(environments: EnvironmentService, made: Environment) -> AsyncGenerator[Place]:
    """Yield a new environment, and destroy it at the end of the block unless it was kept."""
    place = Place(made, is_new=True)
    try:
        yield place
    finally:
        if not place.kept:
            await _end(environments, made.id, made.owner)


async def end_unless_used(environments: EnvironmentService, made: Environment) -> None:
    """Destroy an environment that was not used since it was `made`. Raises as `destroy`."""
    with contextlib.suppress(NotFound):
        now = environments.get(made.id, owner=made.owner)
        if now.active_calls == 0 and now.last_used_at == made.last_used_at:
            await environments.destroy(made.id, owner=made.owner)


def _instead(environments: EnvironmentService, owner: str) -> str:
    """Return a hint for when there is no room for a new one."""
    own = environments.list(owner=owner)
    listed = ", ".join(f"{mine.id} ({mine.name})" for mine in own[-_MAX_LISTED:])
    use = f"Give environment_id to use one that you have: {listed}. " if own else ""
    return f"{use}destroy_environment ends one that is no longer needed."


async def _end(environments: EnvironmentService, environment_id: str, owner: str) -> None:
    """Destroy it; if that fails, the reaper will."""
    with anyio.CancelScope(shield=True):
        try:
            await environments.destroy(environment_id, owner=owner)
        except WaggleError as error:
            log.warning("unused_environment_left", environment=environment_id, error=str(error))
