# SPDX-License-Identifier: Apache-2.0
"""The lab of an environment with secrets, as a fixture."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.infra.net.tls.secret_lab import SecretLab


@pytest.fixture
async def lab() -> AsyncGenerator[SecretLab]:
    """Return a lab that has started; it leaves nothing running."""
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        lab = SecretLab(stack)
        await lab.start()
        yield lab
    for _ in range(20):
        await asyncio.sleep(0)
    assert lab.proxy.active == 0
