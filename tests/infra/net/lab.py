# SPDX-License-Identifier: Apache-2.0
"""A small internet on loopback: real servers, a proxy to reach them, and made-up names.

The lab's policy permits only 127.0.0.1, so a server on 127.0.0.2 is one that a guest must not
reach: it counts its connections.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from waggle.domain.network import parse_network
from waggle.domain.network.decisions import Decision, Ended
from waggle.domain.network.rule_book import Judges
from waggle.infra.net.allowance import Allowance
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.net.record import Heard
from waggle.infra.net.resolver import Resolver

OPEN, CLOSED = "127.0.0.1", "127.0.0.2"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """A server, and a record of its connections and requests."""

    port: int
    connections: int = 0
    heads: list[bytes] = field(default_factory=list[bytes])


@dataclass
class Names:
    """A resolver with answers set by the test."""

    known: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    later: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The answers of the second and later lookups of a name, where they differ."""
    silent: set[str] = field(default_factory=set[str])
    questions: list[str] = field(default_factory=list[str])
    error: OSError | None = None
    """The error of every lookup."""
    instead: Resolver | None = None
    """A resolver to use in place of this one."""

    async def __call__(self, name: str) -> Sequence[Address]:
        if self.instead is not None:
            return await self.instead(name)
        if self.error is not None:
            raise self.error
        found = self.later if name in self.questions and name in self.later else self.known
        self.questions.append(name)
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
        self.decisions: list[Decision] = []
        self.ends: list[Ended] = []
        self.proxy: EgressProxy
        self.port = 0
        self.served = asyncio.Semaphore(0)
        """Released whenever the proxy is done with a connection."""

    @property
    def url(self) -> str:
        return f"http://{OPEN}:{self.port}"

    async def start(
        self,
        limits: EgressLimits | None,
        ports: frozenset[int] | None,
        allowance: Allowance | None = None,
        maximum: str = "public",
    ) -> None:
        self.proxy = EgressProxy(
            AddressPolicy([ip_network(f"{OPEN}/32")]),
            self.names,
            reach=Reach(judges=Judges(maximum=parse_network(maximum), ports=ports, web=ports)),
            limits=limits,
            heard=Heard(self.decisions.append, self.ends.append),
            allowance=allowance,
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
        """Start a server that runs `handler` for every connection and closes it afterwards."""
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
        """Start a web server that gives every request without a body the same `answer`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)

        site = await self.site(serve, address)
        return site

    async def forbidden(self) -> Site:
        """Start a server that the policy denies; it must never get a connection."""
        return await self.web(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", CLOSED)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the proxy, as a program in the guest would."""
        reader, writer = await asyncio.open_connection(OPEN, self.port)
        self._stack.callback(writer.close)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """Return everything that the proxy answers to `request` until it hangs up."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def tunnel(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a CONNECT tunnel."""
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return reader, writer


OpenLab = Callable[..., AbstractAsyncContextManager[Lab]]
Turns = Callable[[], Awaitable[None]]
Advance = Callable[[float], None]
