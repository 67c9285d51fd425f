# SPDX-License-Identifier: Apache-2.0
"""Waiting: for the end of a cancelled task; for conditions without an event, by polling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

_PAUSE = 0.02
_Found = TypeVar("_Found")


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once `condition()` holds; fail at the deadline."""
    for _ in range(round(seconds / _PAUSE)):
        if condition():
            return
        await asyncio.sleep(_PAUSE)
    raise AssertionError(f"not within {seconds:g} s: {condition}")


def until_sync(look: Callable[[], _Found | None], seconds: float = 20.0) -> _Found:
    """Return what `look` finds once that is true; fail at the deadline. For tests without loop."""
    for _ in range(round(seconds / _PAUSE)):
        if found := look():
            return found
        time.sleep(_PAUSE)
    raise AssertionError(f"not within {seconds:g} s: {look}")


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and require that it ends by that."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
