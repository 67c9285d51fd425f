# SPDX-License-Identifier: Apache-2.0
"""What a machine is told it is, and how often its warm-up runs.

`tests/vm/test_freezing.py` and `test_warm_pool.py` have real machines.
"""

from __future__ import annotations

import pytest
from tests.service.local.pretended import Rig, machine_id
from tests.support.vm import environment

from waggle.domain.errors import BootFailed
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


async def test_an_environment_has_its_own_machine_id_in_each_of_its_machines(rig: Rig) -> None:
    one, other = environment(), environment()
    assert machine_id(one) != machine_id(other)
    for described in (one, one, other):
        with pytest.raises(BootFailed, match="does not answer"):
            await rig.create(described)
        assert machine_id(described) in rig.hypervisor.identity
