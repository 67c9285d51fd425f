# SPDX-License-Identifier: Apache-2.0
"""Keeps what is written to a guest's channels within bounds.

asyncssh sends as much as a channel's window allows, and the guest says how much that is: one that
opens a huge window and then reads nothing would have the server hold it all. asyncssh ignores what
its transport says of that; `bounded` listens, and this waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import asyncssh

from waggle.infra.ssh.typed import require_packets

_LOOK_AGAIN: Final = 1.0


class BrakedWriter:
    """A channel's writer that also waits for the connection below it."""

    def __init__(self, writer: asyncssh.SSHWriter[bytes], clear: asyncio.Event) -> None:
        """Raises TinyPackets, with the channel closed, for a guest that takes next to nothing."""
        require_packets(writer.channel)
        self._writer = writer
        self._clear = clear
        self.channel = writer.channel

    def write(self, data: bytes) -> None:
        """Take `data` into the buffer."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the channel and the connection can take more, or the channel has closed."""
        await self._writer.drain()
        while not self._clear.is_set() and not self._writer.is_closing():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._clear.wait()

    def can_write_eof(self) -> bool:
        """Always: a channel ends in one direction only."""
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        """End the direction that is written."""
        self._writer.write_eof()

    def close(self) -> None:
        """End both directions once the buffer is sent."""
        self._writer.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._writer.is_closing()

    async def wait_closed(self) -> None:
        """Wait until `close` has taken effect."""
        await self._writer.wait_closed()
