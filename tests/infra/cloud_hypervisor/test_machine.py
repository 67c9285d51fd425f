# SPDX-License-Identifier: Apache-2.0
"""A machine on a pretended Cloud Hypervisor: its processors, and answers that are lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.infra.cloud_hypervisor.pretended import pretended
from tests.support.vmm_server import Reply

from waggle.domain.errors import GuestLost
from waggle.infra.vmm.machine import NO_ORDER

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
LOST = Reply(302)
"""No answer that is one."""
RESET = b"Error rebooting VM: the console cannot be opened\n"


async def test_pause_and_unpause_are_calls_and_may_be_repeated(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        assert await made.boot() is None
        for _ in range(2):
            await made.machine.pause()
        assert made.vmm.state == "Paused"
        for _ in range(2):
            await made.machine.unpause()
        assert made.vmm.state == "Running"
        assert made.server.names == ["vm.create", "vm.boot", "vm.pause", "vm.resume"]


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_machine_runs_on_after_a_pause_whose_answer_was_lost(
    tmp_path: Path, obeys: bool
) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        made.vmm.answers["vm.pause"] = LOST
        made.vmm.obeys = obeys
        with pytest.raises(GuestLost):
            await made.machine.pause()
        made.vmm.answers.clear()
        await made.machine.unpause()
        assert made.vmm.state == "Running"
        await made.machine.pause()
        assert made.vmm.state == "Paused"


async def test_a_reset_is_no_panic_which_would_have_been_heard(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        made.process.messages.sendall(RESET)
        made.process.ends(1)
        assert await made.machine.wait() == "the guest shut down"


async def test_a_reset_before_the_guest_answered_may_be_a_panic(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.machine.connect()
        made.process.messages.sendall(RESET)
        made.process.ends(1)
        assert await made.machine.until_ready() == NO_ORDER
