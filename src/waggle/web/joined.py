# SPDX-License-Identifier: Apache-2.0
"""A connection's writes, of which the first two become one packet.

Used by `waggle.web.protocol` for every answer. Knows no HTTP.
"""

from __future__ import annotations

import asyncio


class Joined:
    """The part of a transport that one answer uses; it joins the first two writes.

    The first write waits for the second, at most until the end of the loop's turn: one system call,
    one packet. uvicorn writes head and body separately, and with TCP_NODELAY a client would be
    woken twice for an answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._first = True
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send `data` at once; the first time, at the latest at the end of the loop's turn."""
        if self._first:
            self._first = False
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(self._held + data if self._held else data)
            self._held = b""

    def close(self) -> None:
        """Send the held data, then close."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""
