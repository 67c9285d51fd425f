# SPDX-License-Identifier: Apache-2.0
"""How often a machine's warm-up runs; `tests/vm/test_warm_pool.py` has real machines."""

from __future__ import annotations

import pytest

from waggle.domain.programs import ExecutionResult, Output
from waggle.service.local.start import repeated

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seconds, times", [(0.3, 3), (12.9, 1)])
async def test_a_long_warm_up_runs_once(seconds: float, times: int) -> None:
    runs = 0

    async def run() -> ExecutionResult:
        nonlocal runs
        runs += 1
        return ExecutionResult(Output(b""), Output(b""), 0, None, timed_out=False, duration=seconds)

    await repeated(run)
    assert runs == times
