# SPDX-License-Identifier: Apache-2.0
"""The duration of the stages of a create, logged at debug level for operators.

Shared by all modules under `waggle.infra`.
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
