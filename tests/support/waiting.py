# SPDX-License-Identifier: Apache-2.0
"""Waiting by polling for conditions without an event, such as those of another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_PAUSE = 0.02


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once `condition()` holds; fail at the deadline."""
    for _ in range(round(seconds / _PAUSE)):
        if condition():
            return
        await asyncio.sleep(_PAUSE)
    raise AssertionError(f"not within {seconds:g} s: {condition}")
