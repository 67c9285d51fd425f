# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that cannot freeze machines: every operation says why, and a sweep does nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
from tests.support.guest import FakeTurn

from waggle.domain.errors import Unsupported
from waggle.domain.machine import MachineSpec
from waggle.service.local.blueprint import StartedMachine
from waggle.service.local.frozen import CannotFreeze, Freezing, FrozenMachine

pytestmark = pytest.mark.anyio
STARTED, MOMENT = cast("StartedMachine", None), cast("FrozenMachine", None)
SPEC, HERE = cast("MachineSpec", None), Path("/nowhere")


async def hang_up() -> None:
    """Do nothing: there are no connections."""


WAYS: list[Callable[[Freezing], object]] = [
    lambda freezing: freezing.turn(STARTED),
    lambda freezing: freezing.freeze(STARTED, FakeTurn()),
    lambda freezing: freezing.pause_to_disk(STARTED, hang_up, FakeTurn()),
    lambda freezing: freezing.keep(MOMENT, HERE, {}),
    lambda freezing: freezing.opened(HERE),
    lambda freezing: freezing.check(HERE),
    lambda freezing: freezing.resume(SPEC, MOMENT),
]


@pytest.mark.parametrize("way", WAYS)
async def test_every_operation_says_why_not(way: Callable[[Freezing], object]) -> None:
    unable = CannotFreeze("Nobody can.", hint="Choose another.")
    with pytest.raises(Unsupported) as refused:
        await cast("Awaitable[object]", way(unable))
    assert (refused.value.message, refused.value.hint) == ("Nobody can.", "Choose another.")


async def test_a_sweep_does_nothing() -> None:
    CannotFreeze("Nobody can.", hint="").sweep()


@pytest.mark.parametrize("others,step", [(True, "snapshots=true"), (False, "WAGGLE_HYPERVISOR")])
async def test_the_next_step_is_one_that_helps_on_this_server(others: bool, step: str) -> None:
    with pytest.raises(Unsupported, match="krun") as refused:
        CannotFreeze.because("krun", others=others).check(HERE)
    assert step in refused.value.hint
