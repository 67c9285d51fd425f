# SPDX-License-Identifier: Apache-2.0
"""Many environments, and guests that open, hold and never read: no error, and memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import pytest
from tests.infra.net import crowd

pytestmark = pytest.mark.anyio
MB = 1_000
"""In kB, as the proxies report their memory."""
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Crowd:
    """The process with the proxies."""

    def __init__(self, process: asyncio.subprocess.Process, ports: list[int]) -> None:
        self._process = process
        self.ports = ports

    async def state(self) -> tuple[int, int]:
        """Return the memory in kB and the number of served connections."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        memory, served = json.loads(await self._process.stdout.readline())
        return memory, served

    async def quiet(self) -> int:
        """Return the memory in kB once no connection is served."""
        while True:
            memory, served = await self.state()
            if not served:
                return memory


@contextlib.asynccontextmanager
async def crowd_of(environments: int, connections: int) -> AsyncGenerator[Crowd]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", crowd.__name__, f"{environments}", f"{connections}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        async with asyncio.timeout(120):
            assert process.stdout is not None
            yield Crowd(process, json.loads(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def server(*, floods: bool) -> AsyncGenerator[int]:
    """Run a server that echoes, or sends without end, and yield its port."""
    serving = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(ConnectionError):
            while data := bytes(65_536) if floods else await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        await hang_up([(reader, writer)])

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1_000)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await asyncio.gather(*serving)


async def hang_up(pairs: Iterable[Pair]) -> None:
    for _, writer in pairs:
        writer.transport.abort()
    for _, writer in pairs:
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def tunnel(port: int, target: int) -> Pair:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
    writer.write(b"CONNECT 127.0.0.1:%d HTTP/1.0\r\n\r\n" % target)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    return reader, writer


async def echoes(pair: Pair) -> None:
    reader, writer = pair
    for number in range(5):
        writer.write(b"%1000d" % number)
        assert await reader.readexactly(1_000) == b"%1000d" % number


@pytest.mark.parametrize("environments", [5, pytest.param(50, marks=pytest.mark.slow)])
async def test_environments_with_twenty_connections_each_work_in_flat_memory(
    environments: int,
) -> None:
    async with crowd_of(environments, 20) as proxies, server(floods=False) as target:
        before = await proxies.quiet()
        held, left = list[int](), list[int]()
        for _ in range(3):
            opening = (tunnel(port, target) for port in proxies.ports for _ in range(20))
            pairs = await asyncio.gather(*opening)
            await asyncio.gather(*(echoes(pair) for pair in pairs))
            memory, served = await proxies.state()
            assert served == environments * 20
            held.append(memory)
            await hang_up(pairs)
            left.append(await proxies.quiet())
        assert held[0] - before < environments * 20 * 90 + 5 * MB
        assert max(held[2:]) - max(held[:2]) < 8 * MB, held
        assert max(left[2:]) - max(left[:2]) < 8 * MB, left


async def test_a_guest_that_never_reads_holds_little_memory() -> None:
    """The attack: servers that flood a guest which reads nothing held 480 kB a connection."""
    async with crowd_of(1, 128) as proxies, server(floods=True) as target:
        before = await proxies.quiet()
        pairs = [await tunnel(proxies.ports[0], target) for _ in range(128)]
        memory, held = 0, before
        while held > memory + 100:  # until the buffers are full
            memory = held
            for _ in range(20):
                await asyncio.sleep(0.01)
            held, _ = await proxies.state()
        assert held - before < 128 * 250
        await hang_up(pairs)
        await proxies.quiet()


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_a_flood_of_connections_costs_its_own_environment_only(number: int) -> None:
    async with crowd_of(2, 128) as proxies, server(floods=False) as target:
        mine = await tunnel(proxies.ports[1], target)
        before, _ = await proxies.state()
        held: list[Pair] = []

        async def insist() -> None:
            for _ in range(number // 20):
                with contextlib.suppress(ConnectionError):
                    held.append(await asyncio.open_connection("127.0.0.1", proxies.ports[0]))
                    held[-1][1].write(b"C")  # half a head

        flood = [asyncio.ensure_future(insist()) for _ in range(20)]
        slowest = 0.0
        loop = asyncio.get_running_loop()
        while not all(task.done() for task in flood):
            began = loop.time()
            await echoes(mine)
            slowest = max(slowest, loop.time() - began)
        await asyncio.gather(*flood)
        last = await tunnel(proxies.ports[1], target)
        await echoes(last)
        memory, served = await proxies.state()
        assert served <= 128 + 2
        assert memory - before < 15 * MB
        assert slowest < 5.0
        await hang_up([mine, last, *held])
        await proxies.quiet()
