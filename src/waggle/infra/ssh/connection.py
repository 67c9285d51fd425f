# SPDX-License-Identifier: Apache-2.0
"""One pooled SSH connection per environment, made again when it breaks.

Only to 127.0.0.1 and only to the pinned host key; no configuration file, agent or known_hosts of
the user is looked at. Everything else in this package runs over it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import asyncssh

from waggle.domain.errors import GuestLost
from waggle.infra.ssh.keys import KEY_TYPE, EnvironmentKeys

CONNECT_TIMEOUT: Final = 20.0
ATTEMPTS: Final = 3
PROXY_PORT: Final = 3128
_CIPHERS: Final = ["chacha20-poly1305@openssh.com", "aes128-ctr"]

ServeTunnel = Callable[["asyncssh.SSHReader[bytes]", "asyncssh.SSHWriter[bytes]"], Awaitable[None]]
"""Serves one connection that a program in the guest made to 127.0.0.1:PROXY_PORT."""


class SshConnection:
    """The connection of one environment. `aclose` it; safe for concurrent use."""

    def __init__(
        self, port: int, keys: EnvironmentKeys, *, proxy: ServeTunnel | None = None
    ) -> None:
        """`proxy`, where given, is reachable for the guest's programs as an HTTP proxy."""
        self._port = port
        self._keys = keys
        self._proxy = proxy
        self._connection: asyncssh.SSHClientConnection | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def get(self) -> asyncssh.SSHClientConnection:
        """The open connection, connecting if there is none. Raises GuestLost."""
        async with self._turn:
            if self._closed:
                raise GuestLost("The environment is being destroyed.")
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> asyncssh.SSHClientConnection:
        failure: BaseException | None = None
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection = await asyncssh.connect(
                        "127.0.0.1", self._port, options=self._options(), config=None
                    )
                    return await self._with_proxy(connection)
            except (OSError, asyncssh.Error, TimeoutError) as error:
                failure = error
        raise GuestLost(f"The guest's SSH server does not answer: {type(failure).__name__}.")

    def _options(self) -> asyncssh.SSHClientConnectionOptions:
        return asyncssh.SSHClientConnectionOptions(
            username="root",
            client_keys=[self._keys.client],
            known_hosts=([self._keys.host_public], [], []),
            server_host_key_algs=[KEY_TYPE],
            kex_algs=["curve25519-sha256"],
            encryption_algs=_CIPHERS,
            compression_algs=["none"],
            preferred_auth="publickey",
            agent_path=None,
            login_timeout=CONNECT_TIMEOUT,
            keepalive_interval=15,
            keepalive_count_max=4,
            config=None,
        )

    async def _with_proxy(
        self, connection: asyncssh.SSHClientConnection
    ) -> asyncssh.SSHClientConnection:
        if self._proxy is None:
            return connection
        serve = self._proxy

        def accept(_host: str, _port: int) -> ServeTunnel:
            return serve

        try:
            await connection.start_server(accept, "127.0.0.1", PROXY_PORT, encoding=None)
        except BaseException:
            connection.abort()
            raise
        return connection

    def drop(self, connection: asyncssh.SSHClientConnection) -> None:
        """Give up a connection that misbehaves; the next `get` makes another."""
        connection.abort()
        if self._connection is connection:
            self._connection = None

    async def aclose(self) -> None:
        """Close for good. Idempotent; does not wait for a guest that no longer answers."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await connection.wait_closed()
