# SPDX-License-Identifier: Apache-2.0
"""Settings as the pool of warm machines. Used by the composition root only."""

from __future__ import annotations

from collections.abc import Callable

from waggle.app.values import warm_kinds
from waggle.config import Settings
from waggle.infra.host.checks_machine import outlook, read_memory
from waggle.service.local.warm_machine import WarmMachine
from waggle.service.local.warm_pool import WarmPool


def warm_pool(settings: Settings, held: Callable[[], int]) -> WarmPool[WarmMachine]:
    """A pool that may have the slots which environments leave; `held` says how many they have.

    It leaves a port for a create, too.
    """
    size = settings.default_memory_mb << 20
    slots = min(settings.max_environments, settings.ssh_port_max - settings.ssh_port_base - 1)
    return WarmPool(
        warm_kinds(settings),
        room=lambda: slots - held(),
        outlook=lambda: outlook(read_memory(), size),
    )
