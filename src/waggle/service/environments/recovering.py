# SPDX-License-Identifier: Apache-2.0
"""What a starting server does with environments that an earlier one left. `service` calls it."""

from __future__ import annotations

from datetime import datetime

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.host import EnvironmentHost
from waggle.domain.observer import EnvironmentStore
from waggle.service.environments.ending import save_if_possible

log = structlog.get_logger(__name__)
_RESUMABLE = (State.RUNNING, State.PAUSED, State.RESUMING)


async def recover(
    host: EnvironmentHost, store: EnvironmentStore, keep_until: datetime
) -> tuple[int, list[Environment]]:
    """Remove what an earlier server left; return how many, and those that are paused to disk.

    One that was being paused to disk as the server died is kept until `keep_until`, whether or not
    that can be recorded: the next start finds it in the same way. One whose recovery fails keeps
    its record and all that it has for the next start, and does not stop the others.
    """
    removed, on_disk = 0, list[Environment]()
    for environment in await store.unfinished():
        try:
            if environment.state in _RESUMABLE and await host.recover(environment):
                found = environment.after_restart()
                paused = found if found.state is State.PAUSED else found.to(State.PAUSED)
                kept = paused.paused_to_disk(environment.paused_until or keep_until)
                on_disk.append(kept)
                if kept != environment:
                    await save_if_possible(store, kept)
                continue
            await host.discard(environment)
            ending = environment.after_restart().without_machine()
            if ending.state is not State.DESTROYING:
                ending = ending.to(State.DESTROYING)
            why = environment.error or "The server was restarted."
            await store.save(ending.to(State.DESTROYED, error=why))
        except Exception:
            log.exception("environment_recovery_failed", environment=environment.id)
        else:
            removed += 1
            log.info("environment_removed_at_start", environment=environment.id)
    return removed, on_disk
