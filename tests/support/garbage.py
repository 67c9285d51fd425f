# SPDX-License-Identifier: Apache-2.0
"""Checks that objects are freed at once, and not only by the cycle collector."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Held:
    """An object to work on. `there` returns a check whether it still exists."""

    @property
    def there(self) -> Callable[[], bool]:
        found = weakref.ref(self)
        return lambda: found() is not None


@contextmanager
def no_collection() -> Generator[None]:
    """Disable the cycle collector until the block ends."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def traced() -> Generator[Callable[[], int]]:
    """Count the bytes that are allocated in the block and still held."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
