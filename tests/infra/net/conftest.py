# SPDX-License-Identifier: Apache-2.0
"""A small internet on loopback: real servers, a proxy to reach them, and made-up names.

The policy of the lab permits 127.0.0.1 and nothing else, so a server on 127.0.0.2 is one that a
guest must not reach: it counts the connections that it gets.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.policy import Address, AddressPolicy, Verdict
from waggle.infra.net.resolve import Resolver

OPEN, CLOSED = "127.0.0.1", "127.0.0.2"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Site:
    """A server, and what happened to it."""

    port: int
    connections: int = 0
    heads: list[bytes] = field(default_factory=list[bytes])


@dataclass
class Names:
    """A resolver whose answers are set by the test."""

    known: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    later: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What the second and later lookups of a name find, where that differs."""
    silent: set[str] = field(default_factory=set[str])
    asked: list[str] = field(default_factory=list[str])
    error: OSError | None = None
    """What every lookup ends with."""
    instead: Resolver | None = None
    """Who answers in its place."""

    async def __call__(self, name: str) -> Sequence[Address]:
        if self.instead is not None:
            return await self.instead(name)
        if self.error is not None:
            raise self.error
        found = self.later if name in self.asked and name in self.later else self.known
        self.asked.append(name)
        if name in self.silent:
            await asyncio.get_running_loop().create_future()
        if name not in found:
            raise OSError(f"no such name: {name}")
        return [ip_address(text) for text in found[name]]


class Lab:
    """The proxy, reachable over a real socket as `url`, and everything around it."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.names = Names({"open.test": [OPEN], "closed.test": [CLOSED]})
        self.decisions: list[tuple[str, int, Verdict]] = []
        self.proxy: EgressProxy
        self.port = 0
        self.served = asyncio.Semaphore(0)
        """Released each time that the proxy is done with a connection."""

    @property
    def url(self) -> str:
        return f"http://{OPEN}:{self.port}"

    async def start(self, limits: EgressLimits | None, ports: frozenset[int] | None) -> None:
        self.proxy = EgressProxy(
            AddressPolicy([ip_network(f"{OPEN}/32")]),
            self.names,
            ports=ports,
            limits=limits,
            on_decision=lambda host, port, verdict: self.decisions.append((host, port, verdict)),
        )
        self.port = await self._listen(self._serve, OPEN)
        self._stack.push_async_callback(self.proxy.aclose)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # asyncio's server would log it
            await self.proxy.serve(reader, writer)
        self.served.release()

    async def _listen(self, handler: Handler, address: str) -> int:
        server = await asyncio.start_server(handler, address, 0)
        self._stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def site(self, handler: Handler, address: str = OPEN) -> Site:
        """A server that runs `handler` for each connection and closes it afterwards."""
        site = Site(0)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site.connections += 1
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await handler(reader, writer)
                    await writer.drain()
            finally:
                writer.close()

        site.port = await self._listen(serve, address)
        return site

    async def web(self, answer: bytes, address: str = OPEN) -> Site:
        """A web server that gives every request without a body the same `answer`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)

        site = await self.site(serve, address)
        return site

    async def forbidden(self) -> Site:
        """A server that the policy denies; it must never see a connection."""
        return await self.web(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", CLOSED)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the proxy, as a program in the guest would open it."""
        reader, writer = await asyncio.open_connection(OPEN, self.port)
        self._stack.callback(writer.close)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """Everything that the proxy answers to `request` until it hangs up."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def tunnel(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An open CONNECT tunnel."""
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return reader, writer


OpenLab = Callable[..., AbstractAsyncContextManager[Lab]]
Turns = Callable[[], Awaitable[None]]
Advance = Callable[[float], None]


@contextlib.asynccontextmanager
async def _open_lab(
    limits: EgressLimits | None = None, ports: frozenset[int] | None = None
) -> AsyncGenerator[Lab]:
    before = asyncio.all_tasks()
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = Lab(stack)
        await lab.start(limits, ports)
        yield lab
    for _ in range(10):  # transports close one turn of the loop after they are told to
        await asyncio.sleep(0)
    assert lab.proxy.active == 0
    assert not {task for task in asyncio.all_tasks() - before if "serve" in repr(task)}


@pytest.fixture
def open_lab() -> OpenLab:
    """A lab as a context manager, given limits and ports; it leaves nothing running."""
    return _open_lab


@pytest.fixture
def turns() -> Turns:
    """Let everything that can go on go on, without waiting for time to pass."""

    async def run() -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    return run


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Put the loop's clock forward by so many seconds."""

    def forward(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + seconds)

    return forward
