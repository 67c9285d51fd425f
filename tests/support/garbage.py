# SPDX-License-Identifier: Apache-2.0
"""Whether something is freed at once, and not only by the cycle collector."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Held:
    """Something that a program works on. `there` says whether anybody still holds it."""

    @property
    def there(self) -> Callable[[], bool]:
        found = weakref.ref(self)
        return lambda: found() is not None


@contextmanager
def no_collection() -> Generator[None]:
    """Stop the cycle collector until the block ends."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def traced() -> Generator[Callable[[], int]]:
    """Count what is allocated meanwhile, and still held, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
