# SPDX-License-Identifier: Apache-2.0
"""When an environment may be restarted. Called by `waggle.mcp`; `restarting` does the work."""

from __future__ import annotations

from typing import Final

from waggle.domain.errors import NotFound
from waggle.domain.host import Progress, no_progress
from waggle.service.environments.restarting import Restarted
from waggle.service.environments.service import EnvironmentService
from waggle.service.sharing import Turns

GRACE: Final = 5.0
"""Seconds that programs have to end before a restart."""
AT_ONCE: Final = 2
"""Restarts of one owner at once; more wait, so that none takes all the host's turns to boot."""


class Restarts:
    """Use case of environments: the restart."""

    def __init__(self, environments: EnvironmentService) -> None:
        self._environments = environments
        self._turns = Turns(AT_ONCE)

    async def restart(
        self,
        environment_id: str,
        *,
        owner: str,
        force: bool = False,
        progress: Progress = no_progress,
    ) -> Restarted:
        """Boot it again from its disk; with `force` its programs have no time to end.

        One that is paused to disk is resumed first, in a free slot. Raises NotFound,
        InvalidArgument, and as `Restarting.restart` and `EnvironmentService.resume` do.
        """
        found = self._environments.get(environment_id, owner=owner)
        if found.is_on_disk:
            await self._environments.resume(found.id, owner=owner)
        life = self._environments.life(found.id)
        if life is None:
            raise NotFound(f"There is no environment {found.id}.")
        turn = self._turns.turn(owner)
        return await life.restart(progress, grace=0.0 if force else GRACE, turn=turn)
