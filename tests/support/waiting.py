# SPDX-License-Identifier: Apache-2.0
"""Waiting for what no event tells, such as another process: look again until a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_PAUSE = 0.02


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once `condition()` holds; fail when it does not in time."""
    for _ in range(round(seconds / _PAUSE)):
        if condition():
            return
        await asyncio.sleep(_PAUSE)
    raise AssertionError(f"not within {seconds:g} s: {condition}")
