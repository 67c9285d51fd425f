# SPDX-License-Identifier: Apache-2.0
"""The first call after a fork, a resume or a rollback works like any other and has a way out.

The guest has by then dropped what the frozen connection left, above all its proxy listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncGenerator

import anyio
import anyio.lowlevel
import pytest
from tests.support.in_turn import frozen_of, pause_to_disk
from tests.support.jobs import again, job
from tests.support.vm import Lab, environment, freezing_of, lines, no_names, root, sh

from waggle.domain.environment import Environment
from waggle.domain.host import FrozenMachine, no_progress
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.network.rule_book import Judges
from waggle.domain.programs import Command
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.policy import AddressPolicy
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import LocalHost

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(600),
]
OUTSIDE = "127.9.9.9"
SIZE = 300_000
TIMES = 8
"""Forks, and resumes: half of these from the disk."""
AT_ONCE = 4

EVERY_PORT = Reach(judges=Judges(ports=None, web=None))


@contextlib.asynccontextmanager
async def downloads() -> AsyncGenerator[int]:
    """Serve one file of SIZE bytes and yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + b"x" * SIZE)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, OUTSIDE, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def port(quick: Lab) -> AsyncGenerator[int]:
    def proxy(_environment: Environment) -> EgressProxy:
        return EgressProxy(
            AddressPolicy([ipaddress.ip_network(f"{OUTSIDE}/32")]),
            no_names,
            reach=EVERY_PORT,
        )

    freezing_of(quick)
    quick.new_proxy = proxy
    async with downloads() as port:
        yield port


def download(port: int) -> Command:
    url = f"http://{OUTSIDE}:{port}/file"
    return sh(f"http_proxy=http://127.0.0.1:3128 wget -q -O - {url} | wc -c")


async def started(lab: Lab, port: int) -> tuple[LocalHost, Environment, LocalGuest]:
    """Create an environment that has used its way out."""
    host, described = lab.host(), environment(network=PUBLIC_NETWORK)
    guest = lab.adopt(await host.create(described, no_progress))
    assert lines(await guest.run(download(port))) == [str(SIZE)]
    return host, described, guest


async def copy(lab: Lab, host: LocalHost, frozen: FrozenMachine) -> LocalGuest:
    described = environment(network=PUBLIC_NETWORK)
    return lab.adopt(await host.create(described, no_progress, frozen))


@pytest.mark.slow
async def test_each_of_many_forks_can_download_in_its_first_call(quick: Lab, port: int) -> None:
    host, _, origin = await started(quick, port)
    room = anyio.Semaphore(AT_ONCE)
    got: list[str] = []

    async def first_call(frozen: FrozenMachine) -> None:
        async with room:
            guest = await copy(quick, host, frozen)
            result = await guest.run(download(port))
            got.append(f"{result.stdout.text()}{result.stderr.text()}".strip())
            await guest.destroy()

    await anyio.sleep(1)  # let the connection become idle: its end then goes unnoticed
    async with frozen_of(origin) as frozen, anyio.create_task_group() as tasks:
        for _ in range(TIMES):
            tasks.start_soon(first_call, frozen)
    assert got == [str(SIZE)] * TIMES
    assert lines(await origin.run(download(port))) == [str(SIZE)]


@pytest.mark.slow
async def test_each_of_many_resumes_can_download_in_the_first_call(quick: Lab, port: int) -> None:
    host, described, guest = await started(quick, port)
    got: list[str] = []
    for time in range(TIMES):
        if time % 2:  # these are paused in memory only
            await guest.pause()
            await guest.unpause()
        else:
            await anyio.sleep(0.2)  # as above
            await pause_to_disk(guest)
            guest = quick.adopt(await host.resume(described, no_progress))
        result = await guest.run(download(port))
        got.append(f"{result.stdout.text()}{result.stderr.text()}".strip())
    assert got == [str(SIZE)] * TIMES


async def test_a_job_that_runs_continues_in_a_fork_which_has_its_own(quick: Lab, port: int) -> None:
    host, _, origin = await started(quick, port)
    script = "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end"
    running = job(sh(script), note=b"a note")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(origin.attend, running)
        with anyio.fail_after(60):
            while not running.offsets[0]:
                await anyio.lowlevel.checkpoint()
        async with frozen_of(origin) as frozen:
            fork = await copy(quick, host, frozen)
        (found,) = [one for one in await fork.jobs() if one.is_running]
        assert (found.id, found.note) == (running.id, b"a note")
        assert (await fork.left_running()).count == 0
        await root(fork, "touch /tmp/enough")
        printed = lines(await fork.attend(again(found)))
        assert printed == [*map(str, range(1, len(printed))), "end"]
        assert [one.is_running for one in await origin.jobs() if one.id == running.id] == [True]
        await root(origin, "touch /tmp/enough")
