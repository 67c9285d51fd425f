# SPDX-License-Identifier: Apache-2.0
"""The undocumented parts of asyncssh that this package needs, and types for the rest.

No other module uses a name or a signature that asyncssh does not document. INTERNALS lists the
private ones, and a test compares all of them with the installed version. `HookedConnection` gives
`bounded` hooks where asyncssh has none. `SftpReader` bounds the SFTP answers that asyncssh reads:
it makes objects of everything that a packet of up to 4 MiB lists, such as 350,000 names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import asyncssh
from asyncssh import constants
from asyncssh.channel import SSHChannel
from asyncssh.packet import PacketDecodeError, SSHPacket, SSHPacketLogger
from asyncssh.sftp import start_sftp_client

__all__ = ["PacketDecodeError", "SSHChannel", "SSHPacket", "SSHPacketLogger", "constants"]

INTERNALS: Final = (
    (asyncssh.SSHClientConnection, "_recv_handler"),
    (asyncssh.SSHClientConnection, "_send_kexinit"),
    (asyncssh.SSHClientConnection, "_send_deferred_packets"),
    (asyncssh.SSHClientConnection, "_deferred_packets"),
    (asyncssh.SSHClientConnection, "_kex_complete"),
    (SSHChannel, "_send_pktsize"),
)
Step = Callable[[], bool]
"""One step of decoding; a packet takes two. Returning False ends it until more data is there."""


class HookedConnection(asyncssh.SSHClientConnection):
    """asyncssh's client connection, which calls the methods that raise NotImplementedError."""

    def next_step(self) -> Step:
        """Return the next step of decoding."""
        raise NotImplementedError

    def set_step(self, step: Step) -> None:
        """Take the step that asyncssh wants next."""
        raise NotImplementedError

    def sending_changed(self) -> None:
        """Called when a key exchange begins or has ended."""
        raise NotImplementedError

    @property
    def held_packets(self) -> int:
        """The number of packets to send that wait for a key exchange."""
        return len(self._deferred_packets)

    @property
    def is_exchanging_keys(self) -> bool:
        """Whether no data may be sent until the peer has done its part of a key exchange."""
        return not self._kex_complete

    @property
    def _recv_handler(self) -> Step:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.next_step()

    @_recv_handler.setter
    def _recv_handler(self, step: Step) -> None:
        self.set_step(step)

    def _send_kexinit(self) -> None:
        super()._send_kexinit()
        self.sending_changed()

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self.sending_changed()


MAX_PACKET: Final = 512 << 10
"""Bytes, except for file data, which makes no objects; OpenSSH's server sends 256 KiB."""
MAX_NAMES: Final = 1_000
"""Names in one packet; OpenSSH's server sends 100."""
_DATA, _NAMES, _IN_A_ROW = 103, 104, 16


class Reader(Protocol):
    """The source that asyncssh reads bytes from."""

    @property
    def logger(self) -> object:
        """The logger that asyncssh uses."""
        ...

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return a fact about the connection, as asyncssh does."""
        ...

    async def readexactly(self, n: int) -> bytes:
        """Return exactly `n` bytes. Raises EOFError."""
        ...


class SftpReader:
    """A reader that alternates lengths and packets, as asyncssh does, and refuses bad packets."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._is_length = True
        self._packets = 0
        self.logger = reader.logger

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return a fact about the connection, as asyncssh does."""
        return self._reader.get_extra_info(name, default)

    async def readexactly(self, n: int) -> bytes:
        """Return exactly `n` bytes. Raises EOFError, or SFTPConnectionLost beyond a limit."""
        data = await self._reader.readexactly(n)
        if not self._is_length:
            _check(data)
            self._packets += 1
            if self._packets % _IN_A_ROW == 0:
                await asyncio.sleep(0)
        self._is_length = not self._is_length
        return data


def _check(packet: bytes) -> None:
    kind = packet[0] if packet else 0
    if len(packet) > MAX_PACKET and kind != _DATA:
        raise asyncssh.SFTPConnectionLost("a packet is too long")
    if kind == _NAMES and int.from_bytes(packet[5:9], "big") > MAX_NAMES:
        raise asyncssh.SFTPConnectionLost("a packet has too many names")


SFTP_VERSION: Final = 3
_LEAST_PACKET: Final = 1_024
"""Bytes of data that a guest must accept in one packet; dropbear accepts 32 KiB."""
STDERR: Final = constants.EXTENDED_DATA_STDERR


class Channel(Protocol):
    """A session channel that carries bytes."""

    def writelines(self, list_of_data: Sequence[bytes]) -> None:
        """Queue data to be sent. Raises OSError when the channel cannot send any more."""
        ...

    def write_eof(self) -> None:
        """Signal that no more data follows."""
        ...

    def abort(self) -> None:
        """Close at once, and drop data queued in either direction."""
        ...


class TinyPackets(OSError):
    """The guest accepts only packets so small that they would keep this server busy."""


def require_packets(channel: object) -> None:
    """Close a channel whose guest accepts too little in one packet, and raise TinyPackets.

    asyncssh sends all that the window allows at once, in packets as small as the guest demands:
    10 MB byte by byte takes minutes, and with packets of 0 bytes it never ends.
    """
    size = cast("Any", channel)._send_pktsize  # noqa: SLF001 (public nowhere in asyncssh)
    if size < _LEAST_PACKET:
        cast("Channel", channel).abort()
        raise TinyPackets(f"the guest takes {size} bytes in one packet")


class SftpFile(Protocol):
    """An open remote file. It is opened with block size 0, so each call is one request."""

    async def read(self, size: int, offset: int) -> bytes:
        """Read at most `size` bytes at `offset`; empty at the end. A hostile peer may send more."""
        ...

    async def write(self, data: bytes, offset: int) -> int:
        """Write all of `data` at `offset`."""
        ...

    async def setstat(self, attrs: asyncssh.SFTPAttrs) -> None:
        """Set attributes of the open file."""
        ...

    async def close(self) -> None:
        """Close the file."""
        ...


class _Connection(Protocol):
    async def create_session(
        self,
        session_factory: Callable[[], asyncssh.SSHClientSession[bytes]],
        command: str,
        *,
        encoding: None,
        window: int,
    ) -> tuple[Channel, object]: ...

    async def open_connection(
        self, remote_host: str, remote_port: int, *, encoding: None, window: int
    ) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]: ...

    async def open_session(
        self, *, subsystem: str, encoding: None
    ) -> tuple[asyncssh.SSHWriter[bytes], asyncssh.SSHReader[bytes], object]: ...


class _Sftp(Protocol):
    async def open(
        self, path: bytes, pflags_or_mode: str, attrs: asyncssh.SFTPAttrs, *, block_size: int
    ) -> SftpFile: ...

    def scandir(self, path: bytes) -> AsyncGenerator[asyncssh.SFTPName]: ...


_Opened = TypeVar("_Opened")
_abandoned = set[asyncio.Future[Any]]()  # channels that open for nobody any more


async def _opened(
    opening: Coroutine[Any, Any, _Opened], channel_of: Callable[[_Opened], Any]
) -> tuple[_Opened, Channel]:
    """Return what `opening` makes, and its channel. Raises TinyPackets, and as `opening`.

    Safe to cancel: it is closed once it is open. asyncssh would forget it.
    """
    task = asyncio.ensure_future(opening)

    def abort(_task: object) -> None:
        _abandoned.discard(task)
        if not task.cancelled() and task.exception() is None:
            channel_of(task.result()).abort()

    try:
        made = await asyncio.shield(task)
    except asyncio.CancelledError:
        _abandoned.add(task)
        task.add_done_callback(abort)
        raise
    require_packets(channel_of(made))
    return made, channel_of(made)


async def open_exec(
    connection: asyncssh.SSHClientConnection,
    session: asyncssh.SSHClientSession[bytes],
    command: str,
    window: int,
) -> Channel:
    """Start a command. Raises asyncssh.Error or OSError. Safe to cancel."""
    typed = cast("_Connection", connection)
    opening = typed.create_session(lambda: session, command, encoding=None, window=window)
    return (await _opened(opening, lambda made: made[0]))[1]


async def open_tcp(
    connection: asyncssh.SSHClientConnection, address: str, port: int, window: int
) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
    """Connect to a port beyond the server, as `open_exec`."""
    typed = cast("_Connection", connection)
    opening = typed.open_connection(address, port, encoding=None, window=window)
    return (await _opened(opening, lambda made: made[1].channel))[0]


async def open_sftp(
    connection: asyncssh.SSHClientConnection,
) -> tuple[asyncssh.SFTPClient, Channel]:
    """Start SFTP; return the client and its channel, as `open_exec`.

    asyncssh's `start_sftp_client` hides the channel, and only aborting it ends one that hangs.
    """
    opening = cast("_Connection", connection).open_session(subsystem="sftp", encoding=None)
    (writer, reader, _), channel = await _opened(opening, lambda made: made[0].channel)
    try:
        loop = asyncio.get_running_loop()
        bounded = cast("asyncssh.SSHReader[bytes]", SftpReader(reader))
        client = await start_sftp_client(
            connection, loop, "strict", bounded, writer, None, "strict", SFTP_VERSION
        )
    except BaseException:
        channel.abort()
        raise
    return client, channel


async def open_file(
    client: asyncssh.SFTPClient, path: bytes, mode: str, permissions: int | None = None
) -> SftpFile:
    """Open a remote file; `mode` as for the built-in `open`. Raises asyncssh.Error."""
    attributes = asyncssh.SFTPAttrs(permissions=permissions)
    return await cast("_Sftp", client).open(path, mode, attributes, block_size=0)


def scan(client: asyncssh.SFTPClient, path: bytes) -> AsyncGenerator[asyncssh.SFTPName]:
    """Yield the entries of a directory as they come. Close it when leaving before the end."""
    return cast("_Sftp", client).scandir(path)
