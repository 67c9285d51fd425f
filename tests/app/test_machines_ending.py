# SPDX-License-Identifier: Apache-2.0
"""The end of all machines: it is bounded in time, and a cancelled caller does not cut it short."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
import structlog

from waggle.app.machines import end_machines

pytestmark = pytest.mark.anyio


async def test_machines_end_without_a_grace_period_and_when_the_caller_is_cancelled() -> None:
    ended = anyio.Event()

    async def end() -> None:
        await anyio.lowlevel.checkpoint()
        ended.set()

    with structlog.testing.capture_logs() as logs, anyio.CancelScope() as scope:
        scope.cancel()
        await end_machines(end, 0, lambda: [] if ended.is_set() else ["env-1"])
    assert ended.is_set()
    assert logs == []


async def test_machines_that_do_not_end_are_logged() -> None:
    with structlog.testing.capture_logs() as logs:
        await end_machines(anyio.sleep_forever, 0.01, lambda: ["env-1"], at_least=0)
    assert logs == [{"event": "shutdown_incomplete", "log_level": "error", "left": ["env-1"]}]


async def test_what_is_left_after_all_tries_is_logged() -> None:
    async def fails() -> None:
        await anyio.lowlevel.checkpoint()

    with structlog.testing.capture_logs() as logs:
        await end_machines(fails, 1, lambda: ["env-1"])
        await end_machines(fails, 1, list[str])
    assert logs == [{"event": "shutdown_incomplete", "log_level": "error", "left": ["env-1"]}]
