# SPDX-License-Identifier: Apache-2.0
"""Machines end within a bound, and no caller's hurry cuts that short."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
import structlog

from waggle.app.machines import end_machines

pytestmark = pytest.mark.anyio


async def test_machines_end_though_calls_have_no_grace_and_the_caller_is_cancelled() -> None:
    ended = anyio.Event()

    async def end() -> None:
        await anyio.lowlevel.checkpoint()
        ended.set()

    with structlog.testing.capture_logs() as logs, anyio.CancelScope() as scope:
        scope.cancel()
        await end_machines(end, 0, lambda: ["env-1"])
    assert ended.is_set()
    assert logs == []


async def test_what_does_not_end_is_logged() -> None:
    with structlog.testing.capture_logs() as logs:
        await end_machines(anyio.sleep_forever, 0.01, lambda: ["env-1"], at_least=0)
    assert logs == [{"event": "shutdown_incomplete", "log_level": "error", "left": ["env-1"]}]
