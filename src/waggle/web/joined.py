# SPDX-License-Identifier: Apache-2.0
"""Send the head of an answer together with the first of its body: one system call, one packet.

uvicorn writes them one after the other, and its listener delays nothing (`waggle.web.server`), so
that a client would be woken twice for each answer. Made by `waggle.web.protocol`.
"""

from __future__ import annotations

import asyncio


class Joined:
    """What one answer uses of a transport.

    Its first write waits for the second, at most until the end of the loop's turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._first = True
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send `data`; the first now or at the end of this turn, later ones now."""
        if self._first:
            self._first = False
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(self._held + data if self._held else data)
            self._held = b""

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""
