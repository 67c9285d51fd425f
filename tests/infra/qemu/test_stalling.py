# SPDX-License-Identifier: Apache-2.0
"""When a machine counts as standing still, and when it is told to go on."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.infra.disk_room import DiskRoom
from waggle.infra.qemu.stalling import Stalling

pytestmark = pytest.mark.anyio
STOPPED: dict[str, object] = {"event": "BLOCK_IO_ERROR", "data": {"action": "stop"}}


class Bench:
    """A machine that goes on when it is told to, unless its disk is `full` still."""

    def __init__(self) -> None:
        self.full = False
        self.error: GuestLost | None = None
        self.told: list[str | None] = []
        self.tries = 0
        self.looks = anyio.Semaphore(0)
        room = DiskRoom("the small disk", Path("/x"), 1, free=lambda _path: 1, sleep=self._look)
        self.stalling = Stalling(room, self._go_on)
        self.stalling.tell(self.told.append)

    async def _look(self, _seconds: float) -> None:
        await self.looks.acquire()

    async def _go_on(self) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        went_on = self.stalling.going()
        if self.full:
            self.stalling.heard(STOPPED)
        went_on()

    async def look(self, tries: int) -> None:
        self.looks.release()
        await until(lambda: self.tries == tries)


async def test_it_goes_on_when_there_is_room_and_is_told_once_each_way() -> None:
    bench = Bench()
    for _ in range(3):
        assert not bench.stalling.heard(STOPPED), "nobody keeps the event"
    assert (await bench.stalling.met()).code == "disk_full"
    bench.full = True
    await bench.look(1)
    await bench.look(2)
    assert None not in bench.told, "it never ran"
    bench.full = False
    await bench.look(3)
    await until(lambda: bench.told[-1] is None)
    assert bench.stalling.error is None
    assert "machine stands still" in str(bench.told[0])
    assert "the small disk" in str(bench.told[0])
    await bench.stalling.aclose()


async def test_who_asks_later_is_told_at_once() -> None:
    bench = Bench()
    bench.stalling.heard(STOPPED)
    late: list[str | None] = []
    bench.stalling.tell(late.append)
    assert len(late) == 1
    await bench.stalling.aclose()


async def test_one_that_somebody_paused_is_not_told_to_go_on() -> None:
    bench = Bench()
    bench.stalling.heard(STOPPED)
    await anyio.lowlevel.checkpoint()  # it looks for room by now
    bench.stalling.is_paused = True
    bench.looks.release()
    await until(lambda: bench.looks.value == 0)
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert bench.tries == 0
    await bench.stalling.aclose()


async def test_one_that_does_not_obey_is_tried_again() -> None:
    bench = Bench()
    bench.stalling.heard(STOPPED)
    bench.error = GuestLost("QEMU did not obey")
    await bench.look(1)
    bench.error = None
    await bench.look(2)
    await until(lambda: bench.told[-1] is None)
    await bench.stalling.aclose()


@pytest.mark.parametrize(
    "data", [None, 1, [], "stop", {}, {"action": "report"}, {"action": ["stop"]}]
)
async def test_what_a_hostile_qemu_may_send_is_nothing(data: object) -> None:
    bench = Bench()
    assert not bench.stalling.heard({"event": "BLOCK_IO_ERROR", "data": data})
    assert not bench.stalling.heard({})
    assert bench.told == []
    await bench.stalling.aclose()
