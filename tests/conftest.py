# SPDX-License-Identifier: Apache-2.0
"""What every test shares.

asyncio is the only backend of `@pytest.mark.anyio`. No example of hypothesis has a deadline, since
a busy machine says nothing about the code.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("waggle", deadline=None)
settings.load_profile("waggle")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
