# SPDX-License-Identifier: Apache-2.0
"""The pooled SSH connection of one environment, its keys, and TCP to guest ports over it.

It connects only to 127.0.0.1, accepts only the pinned host key, and reads no configuration file,
agent or known_hosts of the user. Both keys are made for one environment and die with it.
`GuestPorts` serves exposed ports and requests of the guest for itself through the proxy: the guest
sees a connection from its own SSH server, so this works with every network policy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import asyncssh
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from waggle.domain.errors import GuestLost, GuestMisbehaves
from waggle.infra.ssh.bounded import BoundedConnection, connect
from waggle.infra.ssh.bounds import BrakedWriter
from waggle.tasks import end, stage

KEY_TYPE = "ssh-ed25519"


@dataclass(frozen=True, slots=True)
class EnvironmentKeys:
    """The pinned host key and the server's client key.

    `host_key` is private, in dropbear's format; `host_public` is the key that clients must see.
    """

    client: asyncssh.SSHKey
    host_public: asyncssh.SSHKey
    host_key: bytes

    @property
    def authorized_keys(self) -> bytes:
        """The authorized_keys line for the server's client key."""
        return self.client.export_public_key()


def new_keys() -> EnvironmentKeys:
    """Generate keys from the operating system's randomness, in well under a millisecond."""
    host = Ed25519PrivateKey.generate()
    seed, public = host.private_bytes_raw(), host.public_key().public_bytes_raw()
    client = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    wire = _string(KEY_TYPE.encode()) + _string(public)
    return EnvironmentKeys(
        client=asyncssh.import_private_key(client),
        host_public=asyncssh.import_public_key(f"{KEY_TYPE} {base64.b64encode(wire).decode()}"),
        host_key=_string(KEY_TYPE.encode()) + _string(seed + public),
    )


def _string(data: bytes) -> bytes:  # RFC 4251, section 5
    return struct.pack(">I", len(data)) + data


CONNECT_TIMEOUT: Final = 20.0
ATTEMPTS: Final = 3
PAUSE: Final = 0.1
_BUSY: Final = (
    "The machine runs, and may only be too busy: wait and try again. If it stays silent, "
    "restart_environment boots it again with its files."
)
PROXY_PORT: Final = 3128
_TUNNEL_WINDOW: Final = 128 << 10
"""Bytes that the guest may send ahead on each of its connections to the proxy."""
_KEEPALIVE_SECONDS: Final = 15
_CIPHERS: Final = ["chacha20-poly1305@openssh.com", "aes128-ctr"]
log = structlog.get_logger(__name__)

ServeTunnel = Callable[["asyncssh.SSHReader[bytes]", BrakedWriter], Awaitable[None]]
"""Serves one connection that a program in the guest made to 127.0.0.1, port PROXY_PORT."""
_Accept = Callable[["asyncssh.SSHReader[bytes]", "asyncssh.SSHWriter[bytes]"], Awaitable[None]]


class SshSilent(GuestLost):
    """The SSH server takes no connection, so nothing was begun."""


class SshConnection:
    """The connection of one environment, made again when it breaks. The owner calls `aclose`."""

    def __init__(
        self,
        port: int,
        keys: EnvironmentKeys,
        *,
        proxy: ServeTunnel | None = None,
        proxy_port: int = PROXY_PORT,
        timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        """`proxy`, if given, is an HTTP proxy for the guest's programs on `proxy_port`."""
        self._port = port
        self._keys = keys
        self._proxy = proxy
        self._proxy_port = proxy_port
        self._timeout = timeout
        self._connection: BoundedConnection | None = None
        self.clear = asyncio.Event()
        """Set while the connection can take more; see `bounded`."""
        self._misconduct = ""
        self.when_misbehaves: Callable[[GuestMisbehaves], None] = lambda _error: None
        """Called when the server's misconduct has ended a connection."""
        self._offered = False
        self._attempt: asyncio.Task[BoundedConnection] | None = None
        self._waiting = 0
        self._closed = False
        self.revive: Callable[[], Awaitable[None]] | None = None
        """Has the server begin anew when it answers nobody; then it is tried once more."""

    async def get(self) -> asyncssh.SSHClientConnection:
        """Return the open connection, or connect if there is none. Safe to cancel.

        Callers at once share one attempt and its failure: `timeout` seconds, as many again if the
        server had to begin anew, and for the proxy. It goes on when all have left, or a silent one
        would never begin anew for the hasty. Raises GuestLost, permanently after misconduct.
        """
        while True:
            self._require_open()
            if self._offered and self._connection is not None and not self._connection.is_closed():
                return self._connection
            attempt = self._begin()
            self._waiting += 1
            try:
                await asyncio.wait({attempt})
            finally:
                self._waiting -= 1
            self._require_open()
            if not attempt.cancelled():
                return attempt.result()

    def reconnect(self) -> None:
        """Begin to connect if there is no connection, unless closed. Does not wait or raise."""
        if not (self._closed or self._misconduct):
            self._begin()

    def _begin(self) -> asyncio.Task[BoundedConnection]:
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._establish())
            # The loop would report an error for which no caller has waited.
            self._attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._attempt

    async def _establish(self) -> BoundedConnection:
        connection = self._connection
        if connection is None or connection.is_closed():
            self._connection, self._offered = None, False
            with stage("ssh"):
                connection = await self._connect_or_revive()
            self.clear.set()  # wakes writers of an earlier one, which find it closed
            self._connection, self.clear = connection, connection.clear
        if not self._offered:
            with stage("proxy"):
                self._offered = await self._offer_proxy(connection)
        return connection

    @property
    def is_closed(self) -> bool:
        """Whether it is closed permanently, as its machine ends."""
        return self._closed

    def offer(self, proxy: ServeTunnel) -> None:
        """Set the proxy after construction; the next `get` offers it to the guest."""
        self._proxy, self._offered = proxy, False

    def require_good_conduct(self) -> None:
        """Raise GuestMisbehaves if the server's misconduct has ended a connection."""
        if self._misconduct:
            raise GuestMisbehaves(self._misconduct)

    def _misbehaved(self, how: str) -> None:
        log.warning("guest_misbehaves", port=self._port, how=how)
        self._misconduct = f"The environment's SSH server was replaced or broken: {how}."
        self.when_misbehaves(GuestMisbehaves(self._misconduct))

    def _require_open(self) -> None:
        if self._closed:
            raise GuestLost("The environment is being destroyed.")
        if self._misconduct:
            raise GuestLost(self._misconduct)

    async def _connect_or_revive(self) -> BoundedConnection:
        try:
            return await self._connect()
        except SshSilent:
            if self.revive is None or self._misconduct:
                raise
            await self.revive()
            return await self._connect()

    async def _connect(self) -> BoundedConnection:
        """Connect, in a few attempts. The guest controls the peer, which may answer anything."""
        failure, hint = f"it took over {self._timeout:g} s", _BUSY
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                for attempt in range(ATTEMPTS):
                    await asyncio.sleep(PAUSE if attempt else 0)
                    try:
                        return await connect(self._port, self._options(), self._misbehaved)
                    except asyncssh.HostKeyNotVerifiable:
                        failure, hint = "it shows a host key that is not its own", None
                        break
                    except OSError as error:
                        failure, hint = error.strerror or type(error).__name__, None
                    except Exception as error:
                        failure, hint = type(error).__name__, None
        raise SshSilent(f"The guest's SSH server does not answer: {failure}.", hint=hint)

    def _options(self) -> asyncssh.SSHClientConnectionOptions:
        nothing: list[asyncssh.SSHKey] = []
        return asyncssh.SSHClientConnectionOptions(
            host="127.0.0.1",
            port=self._port,
            username="root",
            client_keys=[self._keys.client],
            known_hosts=([self._keys.host_public], nothing, nothing),
            server_host_key_algs=[KEY_TYPE],
            kex_algs=["curve25519-sha256"],
            encryption_algs=_CIPHERS,
            compression_algs=["none"],
            preferred_auth="publickey",
            agent_path=None,
            login_timeout=self._timeout,
            keepalive_interval=_KEEPALIVE_SECONDS,
            keepalive_count_max=4,
            config=None,
        )

    async def _offer_proxy(self, connection: asyncssh.SSHClientConnection) -> bool:
        """Have the guest listen on the proxy port; return False if it cannot now.

        A program in the guest may have taken the port. Everything else works without the proxy.
        """
        if self._proxy is None:
            return True
        serve, clear = self._proxy, self.clear

        def accept(_host: str, _port: int) -> _Accept:
            return lambda reader, writer: serve(reader, BrakedWriter(writer, clear))

        try:
            async with asyncio.timeout(self._timeout):
                await connection.start_server(
                    accept, "127.0.0.1", self._proxy_port, encoding=None, window=_TUNNEL_WINDOW
                )
        except asyncssh.ChannelListenError:
            log.warning("proxy_port_taken", port=self._proxy_port)
            return False
        except (asyncssh.Error, OSError, TimeoutError) as error:
            self.drop(connection)
            why = f"it forwards nothing ({type(error).__name__})"
            raise SshSilent(f"The guest's SSH server does not answer: {why}.") from error
        return True

    def drop(self, connection: asyncssh.SSHClientConnection) -> None:
        """Abort a connection that misbehaves; the next `get` makes another."""
        connection.abort()
        if self._connection is connection:
            self._connection = None

    def set_paused(self, paused: bool) -> None:
        """Stop keepalive while the guest is paused, so that its silence ends nothing."""
        if self._connection is not None:
            self._connection.set_keepalive(0 if paused else _KEEPALIVE_SECONDS)

    def hang_up(self) -> None:
        """Drop the open connection, if there is one; the next `get` makes another."""
        if self._connection is not None:
            self.drop(self._connection)

    def abandon(self) -> None:
        """Hang up, and end an attempt that no caller waits for: the machine is to stand still."""
        self.hang_up()
        if self._attempt is not None and not self._waiting:
            self._attempt.cancel()
            self._attempt = None

    async def aclose(self) -> None:
        """Close permanently. Idempotent; waits at most 1 s for a guest that does not answer."""
        self._closed = True
        if self._attempt is not None:
            await end(self._attempt)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await connection.wait_closed()
