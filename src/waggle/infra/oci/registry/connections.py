# SPDX-License-Identifier: Apache-2.0
"""Connections that go only to allowed addresses. Called by `transport`.

The address is checked when the connection is made, on the address that is then used, so a name
that resolves differently the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import cast

import anyio
import httpcore2

from waggle.infra.oci.registry.addresses import Reach

_READ = 1 << 20


class Forbidden(Exception):
    """Every address of the host is one that this request must not reach."""


class Backend(httpcore2.AsyncNetworkBackend):
    """Connects by address, and only to the allowed ones."""

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
    """A connection that is closed when its TLS handshake is cancelled; the library forgets that."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # More at once costs less; the caller parses whatever comes.
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
