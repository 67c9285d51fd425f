# SPDX-License-Identifier: Apache-2.0
"""An environment with secrets on loopback: its proxy, real TLS servers, and its clients."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from tests.support.authorities import Authority
from tests.support.forge import read_request

from waggle.domain.access import LOCAL
from waggle.domain.network import parse_network
from waggle.domain.network.decisions import Decision
from waggle.domain.network.rule_book import Judges
from waggle.domain.secrets import Granted, Secret, SecretValue, ValueUnavailable
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.net.record import Heard
from waggle.infra.net.tls.authority import EnvironmentAuthority
from waggle.infra.net.tls.ended import EndedTls
from waggle.infra.net.tls.upstream import UpstreamTls

HERE = "127.0.0.1"
HOST, OTHER = "api.example.test", "other.example.test"
PLACEHOLDER = "waggle-github-" + "0123456789abcdef" * 2
QUERY_PLACEHOLDER = "waggle-maps-" + "fedcba9876543210" * 2
VALUE = b"ghp_T0pSecret+/Value~1234567890"
QUERY_VALUE = b"maps key&with=signs%"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class TestVault:
    """A vault in memory, whose values a test may change."""

    __test__ = False
    secrets: dict[str, Secret] = field(default_factory=dict[str, Secret])
    values: dict[str, bytes] = field(default_factory=dict[str, bytes])
    error: str = ""
    lately: dict[str, list[SecretValue]] = field(default_factory=dict[str, list[SecretValue]])

    def secret(self, name: str) -> Secret | None:
        return self.secrets.get(name)

    async def value(self, name: str) -> SecretValue:
        if self.error:
            raise ValueUnavailable(self.error)
        value = SecretValue(self.values[name])
        self.lately.setdefault(name, []).append(value)
        return value

    def known(self, name: str) -> tuple[SecretValue, ...]:
        return (SecretValue(self.values[name]), *self.lately.get(name, ()))


def github(places: Sequence[str] = ("headers",)) -> Secret:
    return Secret("github", "GITHUB_TOKEN", (HOST, "*.git.test"), places=tuple(places))


class SecretLab:
    """The proxy of one environment, reachable over a real socket, and everything around it."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.stack = stack
        self.authority = Authority()
        self.vault = TestVault(
            {"github": github(), "maps": Secret("maps", "MAPS", (HOST,), places=("query",))},
            {"github": VALUE, "maps": QUERY_VALUE},
        )
        placeholders = {"github": PLACEHOLDER, "maps": QUERY_PLACEHOLDER}
        self.granted = Granted(LOCAL, placeholders, self.vault)
        self.own = EnvironmentAuthority.new("lab", [HOST, "*.git.test"])
        self.decisions: list[Decision] = []
        self.used: list[tuple[str, str]] = []
        self.names: dict[str, str] = dict.fromkeys((HOST, OTHER, "a.git.test"), HERE)
        self.handshakes = Pace(200, 1e-6)
        """Nobody waits for the first 200, and nothing comes back in a test's time."""
        self.proxy: EgressProxy
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{HERE}:{self.port}"

    @property
    def denials(self) -> list[str]:
        return [decision.code for decision in self.decisions if not decision.is_allowed]

    def rules(self, network: str) -> None:
        """Let the environment reach something else; HOST stands for the host of the secrets."""
        self.proxy.set_network(parse_network(network.replace("HOST", HOST)))

    async def _resolve(self, name: str) -> Sequence[Address]:
        if name not in self.names:
            raise OSError("no such name")
        return [ip_address(self.names[name])]

    async def start(self, limits: EgressLimits | None = None) -> None:
        ended = EndedTls(
            self.granted,
            self.own,
            UpstreamTls(self.authority.bundle),
            on_use=lambda name, host: self.used.append((name, host)),
            pace=self.handshakes,
        )
        self.proxy = EgressProxy(
            AddressPolicy([ip_network(f"{HERE}/32")]),
            self._resolve,
            reach=Reach(judges=Judges(ports=None, web=None)),
            limits=limits,
            heard=Heard(self.decisions.append),
        )
        self.proxy.secrets = ended
        self.port = await self.listen(self.proxy.serve)
        self.stack.push_async_callback(self.proxy.aclose)

    async def listen(self, handler: Handler, context: ssl.SSLContext | None = None) -> int:
        """Start a server; each connection is closed when `handler` is done."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(
                    ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, OSError
                ):
                    await handler(reader, writer)
                    await writer.drain()
            finally:
                writer.close()

        server = await asyncio.start_server(serve, HERE, 0, ssl=context)
        self.stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def site(
        self, handler: Handler, *protocols: str, host: str = HOST, expired: bool = False
    ) -> int:
        """Start a server with TLS and a certificate of the trusted authority."""
        return await self.listen(handler, self.authority.server(host, *protocols, expired=expired))

    def context(self, *protocols: str) -> ssl.SSLContext:
        """Return the context of a client in the guest, which trusts the environment's authority."""
        context = ssl.create_default_context(cadata=self.own.certificate.decode())
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    async def tunnel(self, port: int, host: str = HOST) -> Streams:
        """Open a CONNECT tunnel."""
        reader, writer = await asyncio.open_connection(HERE, self.port)
        self.stack.callback(writer.close)
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return reader, writer

    async def connect(
        self, port: int, *protocols: str, host: str = HOST, name: str | None = None
    ) -> Streams:
        """Open TLS to a server through the proxy."""
        reader, writer = await self.tunnel(port, host)
        await writer.start_tls(self.context(*protocols), server_hostname=name or host)
        return reader, writer

    async def ask(self, port: int, request: bytes) -> bytes:
        """Return all that comes back for a request over TLS until the connection ends."""
        reader, writer = await self.connect(port)
        writer.write(request)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            return await reader.read()
        return b""


def request(port: int, *headers: str, path: str = "/", method: str = "GET") -> bytes:
    """Return a request without a body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{port}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def answer(body: bytes, *headers: str, close: bool = True) -> bytes:
    """Return an answer with a length."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class Site:
    """A handler that answers each request the same, and keeps what it got."""

    def __init__(self, *answers: bytes, requests: int = 1) -> None:
        """`answers` are written one after the other, each on its own."""
        self.answers = answers
        self.requests = requests
        self.got: list[tuple[bytes, bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(self.requests):
            self.got.append(await read_request(reader))
            for piece in self.answers:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    @property
    def heads(self) -> bytes:
        """All heads that came."""
        return b"".join(head for head, _ in self.got)
