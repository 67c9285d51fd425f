# SPDX-License-Identifier: Apache-2.0
"""The guest agent over its port: its first answer, and a file against SFTP over SSH.

The machine is a bare QEMU with a port for the agent, and the client is waggle's, as `waggle agent`
uses it. Its pings against qemu-ga's are compared in a Debian of their own: tests/debian.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncssh

from benchmarks import bare, guest
from benchmarks.figures import compare
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.table import Result
from waggle.config import load
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import MAX_ANSWER, PORT

ROUNDS, BOOTS = 10, 3
SIZE = 10 << 20
FILE = "/home/sandbox/file"
SECONDS = 300.0
MILLISECONDS = 1e3


async def measure(options: Options) -> list[Result]:
    """Measure the rows `agent-first` and `agent-read`."""
    firsts: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(BOOTS):
        async with _machine() as (parts, agent, first):
            firsts.append(first)
            if len(firsts) < BOOTS:
                continue
            await agent.write_file(FILE, bytes(range(256)) * (SIZE // 256))
            async with guest.connected(parts.port, parts.client_key, parts.known_hosts) as ssh:
                for number in range(options.rounds or ROUNDS):
                    sides = [(ours, _by_agent(agent)), (theirs, _by_sftp(ssh))]
                    for found, reading in sides[:: -1 if number % 2 else 1]:
                        found.append(await reading)
    how = f"median of {BOOTS} boots"
    first = statistics.median(firsts) * MILLISECONDS
    return [Result("agent-first", first, "", "", how), ratio("agent-read", compare(ours, theirs))]


@asynccontextmanager
async def _machine() -> AsyncGenerator[tuple[bare.Parts, AgentClient, float]]:
    """Boot one; yield it with its agent, and the seconds from ready to the first answer."""
    settings = load()
    with tempfile.TemporaryDirectory(prefix="waggle-bench-") as directory:
        parts = await bare.prepare(settings, RuntimeName.SHELL, Path(directory))
        socket = Path(directory) / "agent"
        chardev = f"socket,id=agent,path={socket},server=on,wait=off"
        port = ["-chardev", chardev, "-device", f"virtserialport,chardev=agent,name={PORT}"]
        parts = replace(parts, argv=[*parts.argv, *port])

        async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_unix_connection(socket, limit=MAX_ANSWER)

        agent = AgentClient(dial)
        async with bare.running(parts.argv) as console, asyncio.timeout(SECONDS):
            try:
                await bare.until_ready(console)
                began = time.perf_counter()
                await agent.ping(60)
                yield parts, agent, time.perf_counter() - began
            finally:
                await agent.close()


async def _by_agent(agent: AgentClient) -> float:
    began = time.perf_counter()
    assert len(await agent.read_file(FILE)) == SIZE
    return time.perf_counter() - began


async def _by_sftp(ssh: asyncssh.SSHClientConnection) -> float:
    async with ssh.start_sftp_client() as sftp, sftp.open(FILE, "rb") as file:
        began = time.perf_counter()
        data: bytes = await file.read()  # pyright: ignore[reportUnknownMemberType]
        assert len(data) == SIZE
        return time.perf_counter() - began
