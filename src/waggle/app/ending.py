# SPDX-License-Identifier: Apache-2.0
"""End the machines of a server that stops. Used by the composition root only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

AT_LEAST: Final = 10.0
"""Seconds, however short the grace of calls is."""
log = structlog.get_logger(__name__)


async def end_machines(
    end: Callable[[], Awaitable[None]],
    grace: float,
    left: Callable[[], object],
    *,
    at_least: float = AT_LEAST,
) -> None:
    """Call `end`, which goes on if the caller is cancelled, and give up after `grace` seconds.

    `end` has `at_least` seconds. When it is given up, what `left` returns is logged.
    """
    with anyio.move_on_after(max(grace, at_least), shield=True) as scope:
        await end()
    if scope.cancelled_caught:
        log.error("shutdown_incomplete", left=left())
