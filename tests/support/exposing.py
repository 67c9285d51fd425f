# SPDX-License-Identifier: Apache-2.0
"""A server whose environment has an exposed port, and the program behind it, which a test writes.

The program is a handler of connections on loopback, to which the fake guest leads. `GuestProgram`
keeps the heads of the requests that it read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.server import Rig, Setup, serving

from waggle.domain.environment import Environment
from waggle.domain.exposed_url import ExposedUrls, Place
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.service import CreateRequest

PORT = 8000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handler = Callable[["Conversation"], Awaitable[None]]


@dataclass(slots=True)
class Conversation:
    """One connection of the program in the guest. `head` is that of the first request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.partition(b"\r\n")[0]

    @property
    def headers(self) -> dict[str, str]:
        """The headers by name in lower case; of a repeated one, all values joined by `, `."""
        found: dict[str, str] = {}
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            if line:
                name, _, value = line.partition(":")
                known = found.get(name.lower())
                found[name.lower()] = (
                    value.strip() if known is None else f"{known}, {value.strip()}"
                )
        return found


@dataclass(slots=True)
class GuestProgram:
    """The program behind the port: what it was asked, and where it listens."""

    port: int = 0
    asked: list[Conversation] = field(default_factory=list[Conversation])

    @property
    def last(self) -> Conversation:
        return self.asked[-1]


@asynccontextmanager
async def program(handler: Handler, *, reads_head: bool = True) -> AsyncGenerator[GuestProgram]:
    """Run a program; nothing of it is left afterwards."""
    made = GuestProgram()
    serving_now = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Conversation(reader, writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if reads_head:
                talk.head = await reader.readuntil(b"\r\n\r\n")
                made.asked.append(talk)
            await handler(talk)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving_now.add(task)
        task.add_done_callback(serving_now.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in [*serving_now]:
            task.cancel()
        await asyncio.gather(*serving_now, return_exceptions=True)


@dataclass(slots=True)
class Exposed:
    """A running server with one exposed port."""

    rig: Rig
    environment: Environment
    program: GuestProgram
    owner: str
    urls: ExposedUrls

    @property
    def place(self) -> Place:
        return Place(self.environment.id, PORT)

    @property
    def authority(self) -> str:
        return self.rig.url.partition("://")[2]

    @property
    def path(self) -> str:
        """The port's path, without a slash at its end."""
        return self.urls.prefix(self.place)

    @property
    def host(self) -> str:
        """The port's own Host."""
        return f"{PORT}-{self.environment.id}.{self.urls.host}"

    def token(self, minutes: int = 60) -> str:
        """Return the token of a new link."""
        ports = self.rig.services.ports
        return ports.link(self.environment.id, PORT, owner=self.owner, minutes=minutes).token

    async def sent(self, *parts: bytes) -> bytes:
        """Send bytes on a new connection; return all that is answered until it is closed."""
        reader, writer = await self.connected()
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
            async with asyncio.timeout(10):
                answer = await reader.read(-1)
            writer.close()
            return answer
        return b""

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", int(self.rig.url.rpartition(":")[2]))


@asynccontextmanager
async def exposed(
    handler: Handler, setup: Setup | None = None, *, owner: str = "local", reads_head: bool = True
) -> AsyncGenerator[Exposed]:
    """Run a server with an environment of `owner`, whose port leads to a program."""
    setup = setup or Setup()
    async with program(handler, reads_head=reads_head) as made:
        setup.host.prepare = lambda guest: guest.servers.update({PORT: made.port})
        async with serving(setup) as rig:
            services = rig.services
            environment = await services.environments.create(
                CreateRequest(RuntimeName.PYTHON), owner=owner
            )
            await services.ports.expose(environment.id, PORT, owner=owner, wait_seconds=0)
            yield Exposed(rig, environment, made, owner, setup.urls)


async def ok(talk: Conversation) -> None:
    """Answer `ok` to every request."""
    await talk.say(OK)
