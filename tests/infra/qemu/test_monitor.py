# SPDX-License-Identifier: Apache-2.0
"""A QEMU that sends too much costs the server no memory and does not block the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncGenerator

import pytest
from qemu.qmp import QMPError

from waggle.infra.qemu.monitor import A_SECOND, Monitor

pytestmark = pytest.mark.anyio
GREETING = b'{"QMP": {"version": {"qemu": {"major": 7}, "package": ""}, "capabilities": []}}\r\n'


class Qemu:
    """The other end: it negotiates, answers every command, and sends what the test wants."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.writer: asyncio.StreamWriter

    async def serve(self) -> None:
        reader, self.writer = await asyncio.open_connection(sock=self._end)
        self.writer.write(GREETING)
        while command := await reader.read(65_536):  # one at a time, without a line end
            known = {key: value for key, value in json.loads(command).items() if key == "id"}
            self.say({"return": dict[str, object]()} | known)

    def say(self, message: object) -> None:
        self.writer.write(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: object) -> None:
        self.say({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}})


@contextlib.asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Monitor, Qemu]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    qemu, monitor = Qemu(theirs), Monitor("test")
    serving = asyncio.create_task(qemu.serve())
    try:
        await monitor.connect(ours)
        yield monitor, qemu
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await serving
        qemu.writer.transport.abort()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await monitor.disconnect()


async def test_a_flood_of_events_is_dropped_and_read_slowly_and_blocks_nothing() -> None:
    """The attack: 20,000 events took 18 MB, kept for the machine's life, and 1.6 s at a stretch."""
    async with connected() as (monitor, qemu):
        stall = 0.0

        async def others() -> None:
            nonlocal stall
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                stall = max(stall, time.thread_time() - before)

        watch = asyncio.create_task(others())
        message = {"event": "RTC_CHANGE", "data": {"offset": 78}, "timestamp": {"seconds": 1}}
        flood = json.dumps(message).encode() + b"\r\n"
        tracemalloc.start()
        try:
            qemu.writer.write(flood * 20_000)
            await asyncio.sleep(1.5)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            watch.cancel()
        waiting = qemu.writer.transport.get_write_buffer_size()
        assert len(flood) * 20_000 - waiting < len(flood) * 3 * A_SECOND + 1_000_000
        assert waiting > len(flood) * 10_000, "QEMU waits"
        assert 0 < stall < 0.25
        assert grown - waiting < 3_000_000
        assert monitor.events.history == ()
        assert monitor.events.empty()


async def test_the_awaited_event_is_found_among_others() -> None:
    async with connected() as (monitor, qemu):
        with monitor.hearing("MIGRATION", ("completed", "failed")) as heard:
            await monitor.execute("migrate")
            for status in ("setup", "active", 5, "failed", "completed"):
                qemu.event("RTC_CHANGE", status="completed")
                qemu.event("MIGRATION", status=status)
            qemu.say({"event": "MIGRATION", "data": "completed", "timestamp": {"seconds": 1}})
            assert await heard == "failed"
        assert await monitor.execute("stop") == {}
        assert monitor.events.history == ()


@pytest.mark.parametrize("data", [b"[" * 100_000 + b"\n", b'{"event":' * 5_000 + b"\n", b"\xff\n"])
async def test_a_waiter_gets_an_error_when_the_connection_ends(data: bytes) -> None:
    async with connected() as (monitor, qemu):
        with monitor.hearing("MIGRATION", ("completed",)) as heard:
            qemu.writer.write(data)
            with pytest.raises(QMPError, match="closed"):
                await heard
