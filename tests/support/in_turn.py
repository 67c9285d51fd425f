# SPDX-License-Identifier: Apache-2.0
"""Guests that tests freeze or pause to disk: in their turn, as the service does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from waggle.domain.host import FrozenMachine, Guest


@contextlib.asynccontextmanager
async def frozen_of(guest: Guest) -> AsyncGenerator[FrozenMachine]:
    """Freeze a guest for the length of a block."""
    async with guest.turn_to_freeze() as turn, guest.freeze(turn) as frozen:
        yield frozen


async def pause_to_disk(guest: Guest) -> None:
    """Pause a guest to disk."""
    async with guest.turn_to_freeze() as turn:
        await guest.pause_to_disk(turn)
