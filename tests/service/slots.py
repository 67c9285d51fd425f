# SPDX-License-Identifier: Apache-2.0
"""A check of how many environments fit, for tests that must not lose a slot."""

from __future__ import annotations

import pytest
from tests.service.world import World

from waggle.domain.errors import MaxEnvironments


async def assert_free(here: World, slots: int) -> None:
    """Check that exactly `slots` more environments fit."""
    for _ in range(slots):
        await here.created()
    with pytest.raises(MaxEnvironments):
        await here.created()
