# SPDX-License-Identifier: Apache-2.0
"""Memory that a guest has freed returns to the host."""

from __future__ import annotations

import asyncio

import pytest
from benchmarks.process import resident_bytes
from tests.support.in_turn import frozen_of, pause_to_disk
from tests.support.vm import Lab, environment, root

from waggle.domain.host import no_progress
from waggle.domain.machine import Resources
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(300),
]
ENOUGH = Resources(1, 512, 128)
"""The guest kernel returns pieces of 4 MB, and only while it has 32 of them free."""
USED_MB = 100
FILL = f"dd if=/dev/zero of=/dev/shm/full bs=1M count={USED_MB} 2>/dev/null"
SIZE = "wc -c </dev/shm/full"
GIVEN_BACK_SECONDS = 60


@pytest.fixture
def reporting(lab: Lab) -> Lab:
    if lab.hypervisor.name not in {"qemu", "cloud-hypervisor"}:
        pytest.skip("NOT TESTED: another kind of balloon gives memory back")
    return lab


def held(guest: LocalGuest) -> int:
    """Return the resident megabytes of the VMM."""
    return resident_bytes(guest.machine.pid) >> 20


async def use_and_free(guest: LocalGuest) -> tuple[int, int]:
    """Return the megabytes held while in use, and later, when returned or when time is up."""
    assert int(await root(guest, f"{FILL}; {SIZE}")) == USED_MB << 20
    used = held(guest)
    await root(guest, "rm /dev/shm/full")
    for _ in range(GIVEN_BACK_SECONDS):
        if held(guest) < used - USED_MB // 2:
            break
        await asyncio.sleep(1)
    return used, held(guest)


async def test_booted_and_resumed_machines_return_freed_memory(
    reporting: Lab,
) -> None:
    host, described = reporting.host(), environment(resources=ENOUGH)
    guest = reporting.adopt(await host.create(described, no_progress))
    used, later = await use_and_free(guest)
    assert later < used - USED_MB // 2
    await pause_to_disk(guest)
    if reporting.hypervisor.name != "qemu":
        return  # it maps its memory as a copy does
    guest = reporting.adopt(await host.resume(described, no_progress))
    used, later = await use_and_free(guest)
    assert later < used - USED_MB // 2


async def test_a_copy_keeps_freed_memory_without_logging_errors(reporting: Lab) -> None:
    """Its memory file is shared with other copies, so its VMM may not punch holes in it."""
    host = reporting.host()
    origin = reporting.adopt(await host.create(environment(resources=ENOUGH), no_progress))
    async with frozen_of(origin) as frozen:
        described = environment(resources=ENOUGH)
        copy = reporting.adopt(await host.create(described, no_progress, frozen))
    await root(copy, f"{FILL}; rm /dev/shm/full; {FILL}")
    log = (reporting.environments / described.id / "console.log").read_text(errors="replace")
    assert "discard" not in log
    assert "reported memory" not in log
    assert int(await root(copy, SIZE)) == USED_MB << 20
