# SPDX-License-Identifier: Apache-2.0
"""An HTTP server between client and registry that forwards requests, or breaks them on purpose.

async with FaultProxy(registry.port) as proxy:
    proxy.break_(r"/blobs/", truncate(100), times=1)    # the first such request only
    ...
    assert proxy.seen(r"/blobs/")

Without an upstream port, it answers 404 to requests without a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Fault = Callable[["Exchange"], Awaitable[None]]
_DROPPED = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """One request and the connection that waits for an answer."""

    def __init__(
        self,
        request: Request,
        upstream: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.request = request
        self._upstream = upstream
        self._reader = reader
        self.writer = writer

    async def ask(self) -> Answer:
        """Return the registry's answer."""
        if not self._upstream:
            return Answer(404, {}, b"")
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> Answer:
        request = self.request
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=20)
        try:
            headers = {k: v for k, v in request.headers.items() if k not in _DROPPED}
            body = request.body if request.method in {"PUT", "POST", "PATCH"} else None
            connection.request(request.method, request.path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    async def send(
        self, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None
    ) -> None:
        """Send an answer; `length` overrides its Content-Length."""
        claimed = len(body) if length is None else length
        self.head(status, {**headers, "Content-Length": str(claimed)})
        if self.request.method != "HEAD":
            self.writer.write(body)
        await self.writer.drain()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Status", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def passed_on(self, answer: Answer) -> None:
        """Send the registry's answer."""
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _DROPPED}
        given = {k.lower(): v for k, v in answer.headers.items()}.get("content-length")
        head_only = self.request.method == "HEAD" and given is not None
        await self.send(answer.status, kept, answer.body, int(given or 0) if head_only else None)

    async def gone(self) -> None:
        """Wait until the client hangs up."""
        while await self._reader.read(4096):
            pass


class FaultProxy:
    """The server. Faults are tried in the order in which they were added."""

    def __init__(
        self, upstream: int = 0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        """With `tls` it speaks TLS to the client, but never to the registry."""
        self._upstream = upstream
        self._host = host
        self._tls = tls
        self._faults: list[tuple[re.Pattern[str], Fault, int]] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.requests: list[Request] = []

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._tasks)

    @property
    def name(self) -> str:
        """The proxy's name in image references."""
        assert self._server is not None
        return f"{self._host}:{self._server.sockets[0].getsockname()[1]}"

    def break_(self, pattern: str, fault: Fault, times: int = 1 << 30) -> None:
        """Let `fault` answer the next requests whose `METHOD path` matches `pattern`."""
        self._faults.append((re.compile(pattern), fault, times))

    def mend(self) -> None:
        """Remove all faults and recorded requests."""
        self._faults.clear()
        self.requests.clear()

    def seen(self, pattern: str) -> list[Request]:
        """Return the requests so far whose `METHOD path` matches `pattern`."""
        return [r for r in self.requests if re.search(pattern, f"{r.method} {r.path}")]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await _read_request(reader)
                self.requests.append(request)
                exchange = Exchange(request, self._upstream, reader, writer)
                await self._fault_for(request)(exchange)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _fault_for(self, request: Request) -> Fault:
        for at, (pattern, fault, times) in enumerate(self._faults):
            if times > 0 and pattern.search(f"{request.method} {request.path}"):
                self._faults[at] = (pattern, fault, times - 1)
                return fault
        return pass_on


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


async def pass_on(exchange: Exchange) -> None:
    await exchange.passed_on(await exchange.ask())


def truncate(keep: int) -> Fault:
    """Announce the whole length, send `keep` bytes and hang up."""

    async def fault(exchange: Exchange) -> None:
        answer = await exchange.ask()
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _DROPPED}
        await exchange.send(answer.status, kept, answer.body[:keep], len(answer.body))

    return fault


async def flip(exchange: Exchange) -> None:
    """Flip one bit in the middle."""
    answer = await exchange.ask()
    body = bytearray(answer.body)
    if body:
        body[len(body) // 2] ^= 1
    await exchange.passed_on(Answer(answer.status, answer.headers, bytes(body)))


def stall(keep: int) -> Fault:
    """Send `keep` bytes and then nothing, until the client gives up."""

    async def fault(exchange: Exchange) -> None:
        answer = await exchange.ask()
        await exchange.send(answer.status, {}, answer.body[:keep], len(answer.body))
        await exchange.gone()

    return fault


async def silence(exchange: Exchange) -> None:
    """Send no answer, until the client gives up."""
    await exchange.gone()


async def endless(exchange: Exchange) -> None:
    """Send endlessly, without a length."""
    exchange.head(200, {"Transfer-Encoding": "chunked"})
    block = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
    while not exchange.writer.is_closing():
        exchange.writer.write(block)
        await exchange.writer.drain()


def claims_length(length: int) -> Fault:
    """Send everything with a wrong Content-Length."""

    async def fault(exchange: Exchange) -> None:
        answer = await exchange.ask()
        await exchange.send(answer.status, {}, answer.body, length)

    return fault


def says(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Send this answer without asking the registry."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(status, headers or {}, body)

    return fault


def adds(headers: Mapping[str, str]) -> Fault:
    """Pass the answer on with other headers."""

    async def fault(exchange: Exchange) -> None:
        answer = await exchange.ask()
        names = {name.lower() for name in headers}
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in names}
        await exchange.passed_on(Answer(answer.status, {**kept, **headers}, answer.body))

    return fault


def without_range(exchange: Exchange) -> Awaitable[None]:
    """Pass the request on without its range."""
    old = exchange.request
    headers = {k: v for k, v in old.headers.items() if k != "range"}
    exchange.request = Request(old.method, old.path, headers, old.body)
    return pass_on(exchange)


def in_turn(faults: Sequence[Fault]) -> Fault:
    """Answer each request with the next fault; the last fault repeats."""
    left = list(faults)

    async def fault(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return fault
