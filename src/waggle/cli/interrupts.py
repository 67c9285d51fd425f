# SPDX-License-Identifier: Apache-2.0
"""End long work of a command at a signal, with its clean-up. Used by demo, exec and run."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from waggle.service.together import together

T = TypeVar("T")


async def interruptible(
    work: Callable[[], Awaitable[T]], tell: Callable[[], None] = lambda: None
) -> T:
    """Do the work; at a signal, cancel it, let it clean up, and only then raise KeyboardInterrupt.

    `tell` is called at the first signal; further ones change nothing, for clean-up has its own
    bounds. What it needs, such as a connection with tasks of its own, must be open around this call
    and not in the work, which is cancelled as a whole.
    """
    interrupted = anyio.Event()
    done: list[T] = []

    async def watch(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for _ in signals:
                if not interrupted.is_set():
                    tell()
                interrupted.set()
                scope.cancel()

    try:
        async with together() as watchers:
            with anyio.CancelScope() as scope:
                watchers.start_soon(watch, scope)
                done.append(await work())
            watchers.cancel_scope.cancel()
    except BaseException:
        if not interrupted.is_set():
            raise
    if interrupted.is_set():
        raise KeyboardInterrupt
    return done[0]
