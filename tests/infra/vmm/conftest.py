# SPDX-License-Identifier: Apache-2.0
"""A check that nothing of a call is left: sockets, tasks' descriptors."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.support.leaks import Leaks


@pytest.fixture
async def nothing_left() -> AsyncGenerator[None]:
    watch = Leaks()
    yield
    await watch.settle()
