# SPDX-License-Identifier: Apache-2.0
"""Python's cycle collector, set for a server: it looks at what calls make, not at the program.

Used by `waggle.app_http` around serving. By default the collector walks through young objects
several times in each call, and through all modules and schemas every so often.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator

YOUNG = 10_000
"""Objects that are made before it looks at them; each call makes some hundreds, and few cycles."""


@contextlib.contextmanager
def set_for_serving() -> Generator[None]:
    """Leave out what is there now, and look less often, until the block ends."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
