# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the lab, and for turns of the loop and its clock."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.infra.net.lab import Advance, Lab, OpenLab, Turns

from waggle.infra.net.allowance import Allowance
from waggle.infra.net.guest_request import EgressLimits


@contextlib.asynccontextmanager
async def _open_lab(
    limits: EgressLimits | None = None,
    ports: frozenset[int] | None = None,
    allowance: Allowance | None = None,
    maximum: str = "public",
) -> AsyncGenerator[Lab]:
    before = asyncio.all_tasks()
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = Lab(stack)
        await lab.start(limits, ports, allowance, maximum)
        yield lab
    for _ in range(10):  # a transport closes one turn of the loop after `close`
        await asyncio.sleep(0)
    assert lab.proxy.active == 0
    assert not {task for task in asyncio.all_tasks() - before if "serve" in repr(task)}


@pytest.fixture
def open_lab() -> OpenLab:
    """Return a lab as a context manager, given limits and ports; it leaves nothing running."""
    return _open_lab


@pytest.fixture
def turns() -> Turns:
    """Let every task that can continue run, without waiting for time to pass."""

    async def run() -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    return run


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Put the loop's clock forward by this many seconds."""

    def forward(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + seconds)

    return forward
