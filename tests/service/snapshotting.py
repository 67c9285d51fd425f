# SPDX-License-Identifier: Apache-2.0
"""A world whose environments can be frozen, for tests of snapshots and of what outlives them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta

from tests.service.world import World, world
from tests.support.fakes import MemoryShelf

from waggle.service.environments.reaching import OperatorNetwork
from waggle.service.environments.snapshots import SnapshotLimits, SnapshotService

KEEP = timedelta(hours=24)


@dataclass
class Here:
    """A world and a snapshot service on top of it."""

    world: World
    shelf: MemoryShelf
    service: SnapshotService


@contextlib.asynccontextmanager
async def snapshots(
    *, capacity: int = 4, per_owner: int = 2, rules: OperatorNetwork | None = None
) -> AsyncGenerator[Here]:
    numbers = itertools.count(1)
    async with world(capacity=capacity, rules=rules) as around:
        shelf = MemoryShelf()
        service = SnapshotService(
            around.service,
            shelf,
            SnapshotLimits(per_owner, KEEP),
            clock=around.clock,
            new_id=lambda: f"{next(numbers):08x}-0000-4000-8000-00000000000a",
        )
        yield Here(around, shelf, service)
