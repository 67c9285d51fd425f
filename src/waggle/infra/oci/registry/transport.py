# SPDX-License-Identifier: Apache-2.0
"""One HTTP exchange, over connections that go only to allowed addresses. Called by `exchange`.

It keeps no cookies, follows no redirects, reads no environment variables and logs no URL (they may
hold signatures), which is why it is an httpx2 transport and not a client. The address is checked
when the connection is made, and that same address is used, so a name that resolves differently the
second time gains nothing.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Protocol, cast, runtime_checkable

import anyio
import httpcore2
import httpx2

from waggle.infra.oci.registry.options import ANYWHERE, Reach

_READ = 1 << 20


class Forbidden(Exception):
    """The request may reach none of the host's addresses."""


class Backend(httpcore2.AsyncNetworkBackend):
    """Connects by address, and only to allowed ones."""

    def __init__(self, allowed: frozenset[Reach], reach: Callable[[str], Reach]) -> None:
        self._allowed = allowed
        self._reach = reach
        self._inner = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, then connect to the first allowed address that answers. Raises Forbidden."""
        error: Exception = httpcore2.ConnectError(f"{host} has no address")
        addresses = await _resolve(host, port, timeout)
        allowed = [address for address in addresses if self._reach(address) in self._allowed]
        if addresses and not allowed:
            raise Forbidden(host)
        for address in allowed:
            try:
                return _Connection(
                    await self._inner.connect_tcp(
                        address, port, timeout, local_address, socket_options
                    )
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error


class _Connection(httpcore2.AsyncNetworkStream):
    """A connection that closes when its TLS handshake is cancelled; the library forgets to."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # Larger reads cost less; the caller parses any amount.
        return await self._inner.read(max(max_bytes, _READ), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _Connection(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    def get_extra_info(self, info: str) -> object:
        return cast("object", self._inner.get_extra_info(info))


async def _resolve(host: str, port: int, timeout: float | None) -> list[str]:
    try:
        with anyio.fail_after(timeout):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout(f"{host} does not resolve in time") from error
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"{host} does not resolve") from error
    return list(dict.fromkeys(entry[4][0] for entry in found))


ALLOWED = "waggle.allowed"
"""Request extension: a frozenset of `Reach` where the connection may go."""

_MAX_CONNECTIONS = 32


@functools.lru_cache(maxsize=4)
def _context(ca_pem: bytes) -> ssl.SSLContext:
    """Build the TLS context; cached, because loading the authorities takes a while."""
    context = ssl.create_default_context()
    if ca_pem:
        context.load_verify_locations(cadata=ca_pem.decode("ascii", "replace"))
    return context


class GuardedTransport(httpx2.AsyncBaseTransport):
    """One connection pool per set of allowed ranges, so that sets never share connections.

    Raises httpcore2's exceptions, also while a response is read.
    """

    def __init__(self, ca_pem: bytes, reach: Callable[[str], Reach]) -> None:
        """`ca_pem` adds to the system's authorities. Raises ssl.SSLError when it is malformed."""
        self._tls = _context(ca_pem)
        self._reach = reach
        self._pools: dict[frozenset[Reach], httpcore2.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the caller closes the response. Raises httpcore2's errors, Forbidden."""
        allowed = cast("frozenset[Reach]", request.extensions.get(ALLOWED, ANYWHERE))
        if allowed not in self._pools:
            self._pools[allowed] = httpcore2.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=_MAX_CONNECTIONS,
                max_keepalive_connections=_MAX_CONNECTIONS,
                keepalive_expiry=30.0,
                network_backend=Backend(allowed, self._reach),
            )
        url = request.url
        answer = await self._pools[allowed].handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=cast("AsyncIterable[bytes]", request.stream),
                extensions={"timeout": request.extensions.get("timeout", {})},
            )
        )
        return httpx2.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Stream(cast("AsyncIterable[bytes]", answer.stream)),
            extensions=cast("dict[str, object]", vars(answer)["extensions"]),
        )

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.aclose()


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, inner: AsyncIterable[bytes]) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        if isinstance(self._inner, _Closable):
            await self._inner.aclose()


def peer_of(response: httpx2.Response) -> str:
    """Return the IP address that a response came from, or an empty text if unknown."""
    stream: object = response.extensions.get("network_stream")
    if not isinstance(stream, httpcore2.AsyncNetworkStream):
        return ""
    address: object = stream.get_extra_info("server_addr")
    if not isinstance(address, tuple) or not address:
        return ""
    return str(cast("tuple[object, ...]", address)[0])
