# SPDX-License-Identifier: Apache-2.0
"""Both ends of a forwarder: a client on TCP and a simulated guest on a Unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from waggle.infra.guest.door import Door
from waggle.infra.guest.forwarder import LINGER, Forwarder, claim

NAME = "ssh"
BULK = os.urandom(1 << 16) * 160
"""10 MiB, more than all buffers between both ends hold."""


class Guest:
    """A listener in libkrun's place; `accept` returns the next connection, nonblocking."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(directory / NAME))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._open: list[socket.socket] = []

    async def accept(self) -> socket.socket:
        connection, _ = await self._loop.sock_accept(self._listener)
        self._open.append(connection)
        return connection

    def is_called(self) -> bool:
        try:
            self._open.append(self._listener.accept()[0])
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        for connection in (self._listener, *self._open):
            connection.close()


class Rig:
    """A forwarder that has not started yet, and the clients that connect to it."""

    def __init__(self, directory: Path, pid: int, *, linger: float = LINGER) -> None:
        self.listener = claim(0)
        self.port = int(self.listener.getsockname()[1])
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        dial = Door(self._directory, NAME, pid).connect
        self.forwarder = Forwarder(self.listener, dial, linger=linger)
        self._clients: list[socket.socket] = []

    async def call(self) -> socket.socket:
        client = socket.socket()
        self._clients.append(client)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return client

    async def close(self) -> None:
        await self.forwarder.close()
        for client in (*self._clients, self.listener):
            client.close()
        os.close(self._directory)


async def pair(rig: Rig, guest: Guest) -> tuple[socket.socket, socket.socket]:
    """Return both ends of one forwarded connection."""
    rig.forwarder.start()
    client = await rig.call()
    return client, await guest.accept()


async def send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket, size: int = 1 << 16) -> bytes:
    return await asyncio.get_running_loop().sock_recv(end, size)


async def receive_all(end: socket.socket) -> bytes:
    """Return everything up to the end of the other side's half."""
    data = bytearray()
    while piece := await receive(end):
        data += piece
    return bytes(data)


async def is_dropped(end: socket.socket) -> bool:
    """Return whether the connection ends, in either way, without a byte."""
    async with asyncio.timeout(10):
        try:
            return await receive(end) == b""
        except ConnectionError:
            return True
