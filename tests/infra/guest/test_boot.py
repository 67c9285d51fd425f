# SPDX-License-Identifier: Apache-2.0
"""Boot: from a started VMM to a ready guest, or to a stopped machine and the reason."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import anyio
import pytest
from tests.support.waiting import cancelled

from waggle.domain.errors import BootFailed
from waggle.infra.guest.boot import KernelFault, VmmKilled, until_booted

pytestmark = pytest.mark.anyio


@dataclass
class Played:
    """A machine that follows the test's script.

    `stops` counts calls of `stop`; every one adds a line to the console.
    """

    cause: str | None = None
    error: Exception | None = None
    killed: bool = False
    hangs_in: str = ""
    console: list[str] = field(default_factory=list[str])
    stops: int = 0

    async def connect(self) -> None:
        await self._do("connect")

    async def until_ready(self) -> str | None:
        await self._do("until_ready")
        return self.cause

    async def was_killed(self) -> bool:
        return self.killed or self.stops > 0  # a stop kills it

    async def stop(self) -> None:
        self.stops += 1
        self.console.append("last line")

    def console_tail(self) -> list[str]:
        return self.console

    async def _do(self, step: str) -> None:
        await asyncio.sleep(0)
        if self.hangs_in == step:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


async def test_a_ready_guest_is_not_stopped() -> None:
    machine = Played()
    await until_booted(machine, 10)
    assert machine.stops == 0


async def test_a_cause_stops_the_machine_and_is_reported_with_the_whole_console() -> None:
    """The last lines arrive while the machine is being stopped."""
    machine = Played(cause="it panicked", console=[f"line {number}" for number in range(20)])
    with pytest.raises(BootFailed) as caught:
        await until_booted(machine, 10)
    first, *lines = caught.value.message.splitlines()
    assert first == "The machine did not boot: it panicked. Its console's last lines:"
    assert lines == [*(f"line {number}" for number in range(9, 20)), "last line"]
    assert machine.stops >= 1


async def test_what_a_kernel_prints_of_itself_after_its_panic_is_left_out() -> None:
    trace = [f"trace {number}" for number in range(30)]
    machine = Played(cause="Kernel panic", console=["giving up", "Kernel panic", *trace])
    with pytest.raises(BootFailed) as caught:
        await until_booted(machine, 10)
    assert caught.value.message.splitlines()[1:] == ["giving up", "Kernel panic"]


@pytest.mark.parametrize("step", ["connect", "until_ready"])
async def test_a_deadline_stops_the_machine(step: str) -> None:
    machine = Played(hangs_in=step)
    with pytest.raises(BootFailed, match=r"the guest was not ready after 0\.05 s"):
        await until_booted(machine, 0.05)
    assert machine.stops >= 1


async def test_a_timeout_of_0_is_a_deadline_too() -> None:
    machine = Played()
    with pytest.raises(BootFailed, match="not ready after 0 s"):
        await until_booted(machine, 0)
    assert machine.stops >= 1


async def test_a_silent_console_is_shown_as_such() -> None:
    class Silent(Played):
        def console_tail(self) -> list[str]:
            return []

    with pytest.raises(BootFailed, match=r"\(nothing\)"):
        await until_booted(Silent(cause="x"), 10)


async def test_an_error_during_boot_stops_the_machine_and_propagates() -> None:
    machine = Played(error=OSError("no descriptors left"))
    with pytest.raises(OSError, match="no descriptors left"):
        await until_booted(machine, 10)
    assert machine.stops == 1


@pytest.mark.parametrize("step", ["connect", "until_ready"])
async def test_a_cancelled_boot_stops_the_machine(step: str) -> None:
    machine = Played(hangs_in=step)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await until_booted(machine, 10)
    assert machine.stops == 1
    booting = asyncio.create_task(until_booted(machine, 10))
    await asyncio.sleep(0)
    await cancelled(booting)
    assert machine.stops == 2


async def test_a_kernel_fault_is_distinguished_from_the_end_of_init() -> None:
    fault = Played(cause="Kernel panic - not syncing: Fatal exception in interrupt")
    with pytest.raises(KernelFault):
        await until_booted(fault, 10)
    killed = Played(cause="Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100")
    with pytest.raises(BootFailed) as caught:
        await until_booted(killed, 10)
    assert not isinstance(caught.value, KernelFault)


async def test_a_killed_vmm_is_distinguished_from_one_that_failed() -> None:
    with pytest.raises(VmmKilled) as caught:
        await until_booted(Played(cause="Firecracker was killed by SIGKILL", killed=True), 10)
    assert "killed it, often the kernel for lack of memory" in str(caught.value.hint)
    with pytest.raises(BootFailed) as caught:
        await until_booted(Played(cause="Firecracker was killed by SIGSEGV"), 10)
    assert not isinstance(caught.value, VmmKilled)


async def test_what_the_guest_says_of_a_kill_is_not_believed() -> None:
    said = "Kernel panic: Firecracker was killed by SIGKILL"
    with pytest.raises(BootFailed) as caught:
        await until_booted(Played(cause=said, console=[said]), 10)
    assert not isinstance(caught.value, VmmKilled)
