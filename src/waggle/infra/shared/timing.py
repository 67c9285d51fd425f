# SPDX-License-Identifier: Apache-2.0
"""How long each stage of a create takes, for an operator who wants to know where time goes.

One of the modules under `waggle.infra` that its siblings may share. Logged at debug level only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

import structlog

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def stage(name: str) -> Generator[None]:
    """Log the duration of a block in milliseconds, however it ends."""
    began = time.perf_counter()
    try:
        yield
    finally:
        log.debug("stage", stage=name, ms=round((time.perf_counter() - began) * 1000, 1))
