# SPDX-License-Identifier: Apache-2.0
"""Signals of a server, and the watchdog that ends the process when its event loop has died.

The first SIGINT or SIGTERM asks the server to stop, the second to stop at once; SIGHUP makes it
reopen its files. Used by `waggle.app.http`, `waggle.app.stdio` and `waggle.cli.serve`. A loop that
ran out of memory, or that never returns from one callback, would leave a process that holds the
port and its machines and serves no client. When the process ends, its machines end with it, and
its supervisor restarts it. Knows no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import anyio.abc
import structlog

log = structlog.get_logger(__name__)


class Signals:
    """The signals received so far. Run `receive` while no signal may end the process."""

    def __init__(self) -> None:
        self._stop, self._at_once = anyio.Event(), anyio.Event()

    async def receive(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive every signal until cancelled, so that none can interrupt the clean-up."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for received in signals:
                log.info("stopping", signal=received.name, at_once=self._stop.is_set())
                (self._at_once if self._stop.is_set() else self._stop).set()

    async def control(self, stop: Callable[[], None], at_once: Callable[[], None]) -> None:
        """Call `stop` at the first signal, even an earlier one, and `at_once` at the second."""
        await self._stop.wait()
        stop()
        await self._at_once.wait()
        at_once()


async def on_hangup(
    act: Callable[[], None], *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Call `act` at every SIGHUP, until cancelled."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            log.info("reopening")
            act()


EXIT_CODE = 70
DEAD_SECONDS = 300
"""A loop that ran no callback for this time is dead; slow disks respond earlier."""
_TICK = 1.0
_LAST_WORDS_SECONDS = 5


def run(main: Callable[..., Awaitable[None]], *args: Any, dead_after: int = DEAD_SECONDS) -> None:
    """Run `main` as `anyio.run` does, and raise what it raises.

    When the loop fails, or runs no callback for `dead_after` seconds, print the tracebacks of all
    threads and end the process at once with EXIT_CODE.
    """

    async def watched() -> None:
        with _watching(asyncio.get_running_loop(), dead_after):
            await main(*args)

    anyio.run(watched, backend_options={"loop_factory": _Loop})


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose own failures, not those of tasks and callbacks, end the process.

    A MemoryError that is reported to the loop ends it, too.
    """

    def run_forever(self) -> None:
        try:
            super().run_forever()
        except Exception as error:
            _end(f"the event loop failed: {type(error).__name__}")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            _end("the event loop has no memory left")
        super().call_exception_handler(context)


@contextlib.contextmanager
def _watching(loop: asyncio.AbstractEventLoop, dead_after: int) -> Generator[None]:
    over = threading.Event()
    arguments = (loop, over, dead_after)
    threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(loop: asyncio.AbstractEventLoop, over: threading.Event, dead_after: int) -> None:
    """Watch the loop. Counts ticks instead of time: a stopped process has no ticks."""
    while not over.is_set():
        turned = threading.Event()
        with contextlib.suppress(MemoryError, RuntimeError):  # a closed loop ends soon
            loop.call_soon_threadsafe(turned.set)
        for _ in range(dead_after):
            if turned.wait(_TICK) or over.is_set():
                break
        else:
            _end(f"the event loop stood still for {dead_after} s")
        over.wait(_TICK)


def _end(why: str) -> None:
    """Print the reason and end the process, even if stderr is not read."""
    signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS_SECONDS)  # SIGALRM ends the process
    with contextlib.suppress(OSError, ValueError, MemoryError):
        os.write(2, f"waggle: {why}; this process ends, and its machines with it.\n".encode())
        faulthandler.dump_traceback(2)
    os._exit(EXIT_CODE)
