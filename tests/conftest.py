# SPDX-License-Identifier: Apache-2.0
"""What every test shares: asyncio is the only backend of `@pytest.mark.anyio`."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
