# SPDX-License-Identifier: Apache-2.0
"""Blocking work in a thread that ends soon when its caller is cancelled. Used by `disk`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from threading import Event

from waggle.infra.rootfs.erofs import Advance


class _Stopped(Exception):
    """The caller was cancelled; ends the worker thread."""


def stoppable(progress: Advance, stop: Event) -> Advance:
    """Return a progress function that ends its thread once `stop` is set."""

    def advance(fraction: float, text: str) -> None:
        if stop.is_set():
            raise _Stopped
        progress(fraction, text)

    return advance


async def in_thread(work: Callable[[Event], Path]) -> Path:
    """Run `work` in a thread; on cancellation ask it to stop and wait until it has cleaned up."""
    stop = Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: it is not what the caller asked about any more
        raise
