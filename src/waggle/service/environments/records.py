# SPDX-License-Identifier: Apache-2.0
"""Records of environments at their end, and what is done about those that have none.

Used by `EnvironmentService` at the server's start and by `LiveEnvironment` at an end.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.host import EnvironmentHost
from waggle.domain.observer import EnvironmentStore

log = structlog.get_logger(__name__)
_MAY_SLEEP = (State.RUNNING, State.PAUSED, State.RESUMING)


async def recover(
    host: EnvironmentHost, store: EnvironmentStore, asleep_until: datetime
) -> tuple[int, list[Environment]]:
    """Remove what an earlier server left behind; how many that were, and those that sleep.

    One that fell asleep as the server died sleeps `asleep_until`. It sleeps whether or not that can
    be recorded: the next start finds it as this one did. One that fails stays on record, with all
    that it has, for the next start and stops nothing.
    """
    removed, asleep = 0, list[Environment]()
    for environment in await store.unfinished():
        try:
            if environment.state in _MAY_SLEEP and await host.salvage(environment):
                until = environment.paused_until or asleep_until
                kept = replace(environment, state=State.PAUSED, active_calls=0).asleep(until)
                asleep.append(kept)
                if kept != environment:
                    await save_if_possible(store, kept)
                continue
            why = environment.error or "The server was restarted."
            gone = replace(
                environment.without_machine(), state=State.DESTROYED, error=why, active_calls=0
            )
            await host.discard(environment)
            await store.save(gone)
        except Exception:
            log.exception("environment_recovery_failed", environment=environment.id)
        else:
            removed += 1
            log.info("environment_removed_at_start", environment=environment.id)
    return removed, asleep


async def save_if_possible(store: EnvironmentStore, environment: Environment) -> None:
    """Save what has become of one; a store that fails cannot undo it, so that is only logged.

    The old record then says unfinished, and the next start of the server looks what is there.
    """
    try:
        await store.save(environment)
    except Exception:
        log.exception("environment_record_failed", environment=environment.id)
