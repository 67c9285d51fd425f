# SPDX-License-Identifier: Apache-2.0
"""An SSH server with the guest's keys that floods its client with packets, in its own process.

It has its own process so that its cost is not the client's. It reads one line of JSON from stdin
(the host key as PEM, and the client's public key as a line), prints its port, and serves until
stdin closes. A command `attack KIND` floods that connection until it ends; any other exits 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncssh
from asyncssh.packet import Boolean, Byte, String, UInt32
from tests.infra.ssh.peer import private_host_key

from waggle.infra.ssh import EnvironmentKeys, new_keys

BATCH = 250
AHEAD = 1 << 20
"""Unsent bytes at which the flood waits for the client."""
Where = tuple[int, EnvironmentKeys]
"""A port, and the matching keys."""
Payload = Callable[[int, "FloodSession"], bytes]


def _opens(kind: bytes) -> Payload:
    address = String(b"127.0.0.1") + UInt32(3128) + String(b"192.0.2.1") + UInt32(1)

    def payload(number: int, _: FloodSession) -> bytes:
        head = Byte(90) + String(kind) + UInt32(number) + UInt32(1 << 20) + UInt32(32768)
        return head + address

    return payload


def _to_channel(kind: int, rest: bytes) -> Payload:
    return lambda _, session: Byte(kind) + UInt32(session.their_number) + rest


def _always(payload: bytes) -> Payload:
    return lambda _number, _session: payload


ATTACKS: dict[str, Payload] = {
    "forwarded-opens": _opens(b"forwarded-tcpip"),
    "unknown-opens": _opens(b"nonsense@example.com"),
    "global-requests": _always(Byte(80) + String(b"nonsense@example.com") + Boolean(True)),
    "unknown-packets": _always(Byte(200)),
    "debug": _always(Byte(4) + Boolean(False) + String(b"x") + String(b"")),
    "ignore": _always(Byte(2) + String(b"")),
    "one-byte-data": _to_channel(94, String(b"x")),
    "channel-requests": _to_channel(98, String(b"nonsense@example.com") + Boolean(True)),
}
DEAF = {"unknown-packets-unread": "unknown-packets", "channel-requests-unread": "channel-requests"}
"""The same attacks by a peer that does not read the answers."""
QUIET = "nothing"
"""No attack, for comparison."""
KINDS = (QUIET, *ATTACKS, *DEAF, "rekey-without-end")


def _ignore(_data: bytes, _datatype: object = None) -> None:
    pass


class FloodSession(asyncssh.SSHServerSession[bytes]):
    """One command's channel. Uses asyncssh's internals, since its API sends only valid packets."""

    def __init__(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connection = cast("Any", connection)
        self._channel: Any = None
        self._command = ""
        self._flood: asyncio.Task[None] | None = None

    @property
    def their_number(self) -> int:
        return cast("int", self._channel._send_chan)

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def session_started(self) -> None:
        verb, _, kind = self._command.partition(" ")
        if verb == "attack":
            self._flood = asyncio.create_task(self._attack(kind))
        else:
            self._channel.exit(0)

    async def _attack(self, kind: str) -> None:
        if kind == QUIET:
            return
        transport = self._connection._transport
        if kind in DEAF:
            transport.pause_reading()
        if kind != "one-byte-data":  # the answers would end a normal server
            self._connection.data_received = _ignore
        if kind == "rekey-without-end":
            self._connection._send_kexinit()
            return
        payload = ATTACKS[DEAF.get(kind, kind)]
        first = 0
        while not transport.is_closing():
            if transport.get_write_buffer_size() > AHEAD:
                await asyncio.sleep(0.001)
                continue
            pieces: list[bytes] = []
            for number in range(first, first + BATCH):
                if kind == "one-byte-data":
                    if self._channel._send_window <= 0:
                        break
                    self._channel._send_window -= 1
                pieces.append(self._sealed(payload(number, self)))
            first += BATCH
            transport.write(b"".join(pieces))
            await asyncio.sleep(0)

    def _sealed(self, payload: bytes) -> bytes:
        """Return the payload as a packet, without asyncssh's padding and empty packets."""
        connection = self._connection
        padding = -(connection._send_enchdrlen + len(payload)) % connection._send_blocksize
        padding += connection._send_blocksize if padding < 4 else 0
        packet = Byte(padding) + payload + bytes(padding)
        sealed, mac = connection._send_encryption.encrypt_packet(
            connection._send_seq, UInt32(len(packet)), packet
        )
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        return cast("bytes", sealed + mac)


async def _serve(host_key: str, client_key: str) -> None:
    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._connection = conn

        def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
            return FloodSession(self._connection)

        def server_requested(self, listen_host: str, listen_port: int) -> asyncssh.SSHListener:
            return _Listener()

    acceptor = await asyncssh.create_server(
        Server,
        "127.0.0.1",
        0,
        server_host_keys=[asyncssh.import_private_key(host_key)],
        authorized_client_keys=asyncssh.import_authorized_keys(client_key),
        encoding=None,
    )
    sys.stdout.write(f"{acceptor.get_port()}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    acceptor.close()


class _Listener(asyncssh.SSHListener):
    """Accepts a forward and listens nowhere."""

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


@asynccontextmanager
async def hostile() -> AsyncGenerator[Where]:
    """Run the server for the length of the block and yield its port and keys."""
    keys = new_keys()
    host = private_host_key(keys).export_private_key().decode()
    line = json.dumps([host, keys.client.export_public_key().decode()])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line.encode() + b"\n")
    try:
        yield int(await process.stdout.readline()), keys
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(*json.loads(sys.stdin.readline())))
