# SPDX-License-Identifier: Apache-2.0
"""A pretended VMM with vsock as Unix sockets, and the guest behind it, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from waggle.infra.guest.vsock import AGENT_PORT, CONSOLE_PORT, RENEWAL_PORT

NAME = "vsock"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Vmm:
    """`guest` has what listens, by port; a port that is not there is refused as Firecracker does.

    `said` is what callers asked for. `call` connects from the guest to the server.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._calls: list[socket.socket] = []
        self.guest: dict[int, Serve] = {}
        self.said: list[bytes] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._directory / NAME)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError, EOFError):
            line = await reader.readline()
            self.said.append(line)
            serve = self.guest.get(int(line.removeprefix(b"CONNECT ")))
            if serve is not None:
                await serve(reader, writer)
        writer.close()

    def call(self) -> socket.socket:
        """Connect to the console's socket; blocks while its queue is full."""
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self._directory / f"{NAME}_{CONSOLE_PORT}"))
        self._calls.append(made)
        return made

    def hang_up(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()
        for made in self._calls:
            made.close()

    async def close(self) -> None:
        self.hang_up()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


def answering(answer: bytes) -> Serve:
    """Answer the line with these bytes, and hold the connection until the caller ends it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()

    return serve


async def renewal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer records as the guest's first process does."""
    writer.write(b"OK 1073741824\n")
    while True:
        sizes = struct.unpack("<II", await reader.readexactly(8))
        await reader.readexactly(sum(sizes))
        if sizes == (0, 0):
            writer.write(struct.pack("<Bq", 1, 1))


async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer calls with nothing, but for those of `reboot`."""
    writer.write(b"OK 1073741825\n")
    while line := await reader.readline():
        if line.strip() and (asked := json.loads(line))["method"] != "reboot":
            answer: dict[str, object] = {"jsonrpc": "2.0", "id": asked["id"], "result": {}}
            writer.write(json.dumps(answer).encode() + b"\n")


GUEST: dict[int, Serve] = {RENEWAL_PORT: renewal, AGENT_PORT: agent}
