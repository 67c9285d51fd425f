# SPDX-License-Identifier: Apache-2.0
"""Threads of `asyncio.to_thread` that begin only when the test lets them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class HeldThreads(ThreadPoolExecutor):
    """Holds all work back until `go`. `asked` is set by the first."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked = asyncio.Event()
        self._may = threading.Event()
        super().submit(self._may.wait)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked.set()
        return super().submit(fn, *args, **kwargs)

    def go(self) -> None:
        """Let all begin. Idempotent."""
        self._may.set()


@contextlib.contextmanager
def held_threads() -> Generator[HeldThreads]:
    """Hold the loop's threads in a block, at whose end all of them have ended."""
    with HeldThreads() as made:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(made)
        try:
            yield made
        finally:
            made.go()
            loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
