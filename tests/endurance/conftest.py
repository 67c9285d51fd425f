# SPDX-License-Identifier: Apache-2.0
"""The random numbers of a run, which `--seed` repeats."""

from __future__ import annotations

import os
import random

import pytest
from tests.support.recovered import report


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers whose seed is reported."""
    seed = request.config.getoption("seed") or int.from_bytes(os.urandom(4), "big")
    report(f"--seed={seed}")
    return random.Random(seed)
