# SPDX-License-Identifier: Apache-2.0
"""A guest to connect to: a server of the test, and the ways in which a guest fails to answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from waggle.infra.net.exposure import Streams

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GUEST_PORT = 8000


@dataclass
class Guest:
    """A guest to connect to.

    `refuses` and `hangs` set its behaviour; `ports` lists the requested ports.
    """

    port: int = 0
    refuses: bool = False
    hangs: asyncio.Event | None = None
    ports: list[int] = field(default_factory=list[int])

    async def connect(self, port: int) -> Streams:
        self.ports.append(port)
        if self.hangs is not None:
            await self.hangs.wait()
        if self.refuses:
            raise ConnectionRefusedError
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def guest(handler: Handler) -> AsyncGenerator[Guest]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Guest(server.sockets[0].getsockname()[1])


async def echo_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer only when the other side has finished: the half-close must arrive."""
    writer.write(await reader.read(-1))
    await writer.drain()
