# SPDX-License-Identifier: Apache-2.0
"""What asyncssh reads SFTP answers from. Used by `typed`; knows no requests.

asyncssh makes objects of all that a packet of up to 4 MiB lists, 350,000 names for instance, and
goes on from packet to packet as long as bytes are there, before anything else has its turn.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import asyncssh

MAX_PACKET: Final = 512 << 10
"""Of anything but a file's data, of which no objects are made; OpenSSH's server sends 256 KiB."""
MAX_NAMES: Final = 1_000
"""Names of one packet; OpenSSH's server sends 100."""
_DATA, _NAMES = 103, 104
_IN_A_ROW: Final = 16


class Reader(Protocol):
    """Gives bytes as they come."""

    @property
    def logger(self) -> object:
        """What asyncssh logs with."""
        ...

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What is known of the connection."""
        ...

    async def readexactly(self, n: int) -> bytes:
        """So many bytes. Raises EOFError."""
        ...


class SftpReader:
    """Reads lengths and packets in turn, as asyncssh does, and refuses what none may have."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._is_length = True
        self._packets = 0
        self.logger = reader.logger

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What is known of the connection."""
        return self._reader.get_extra_info(name, default)

    async def readexactly(self, n: int) -> bytes:
        """So many bytes. Raises EOFError, and SFTPConnectionLost for what is out of bounds."""
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
