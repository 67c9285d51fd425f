# SPDX-License-Identifier: Apache-2.0
"""Records of environments at their end, and what is done about those that have none.

Used by `EnvironmentService` at the server's start and by `LiveEnvironment` at an end.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.host import EnvironmentHost
from waggle.domain.protocols import EnvironmentStore

log = structlog.get_logger(__name__)


async def recover(host: EnvironmentHost, store: EnvironmentStore) -> int:
    """Remove what an earlier server left behind; returns how many environments that were.

    One that cannot be removed stays on record for the next start and stops nothing.
    """
    removed = 0
    for environment in await store.unfinished():
        why = environment.error or "The server was restarted."
        gone = replace(
            environment.without_machine(), state=State.DESTROYED, error=why, active_calls=0
        )
        try:
            await host.discard(environment)
            await store.save(gone)
        except Exception:
            log.exception("environment_recovery_failed", environment=environment.id)
        else:
            removed += 1
            log.info("environment_removed_at_start", environment=environment.id)
    return removed


async def record_end(store: EnvironmentStore, environment: Environment) -> None:
    """Save; a store that fails cannot bring back a machine that is gone.

    The old record then says unfinished, so the next start of the server clears it.
    """
    try:
        await store.save(environment)
    except Exception:
        log.exception("environment_record_failed", environment=environment.id)
