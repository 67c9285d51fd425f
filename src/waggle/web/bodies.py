# SPDX-License-Identifier: Apache-2.0
"""Read request bodies within limits of size, time and memory for all requests together.

Called by `waggle.web.endpoint`. A body is read whole before anything looks at it; then it can be
replayed to the application, which still sees a later disconnect.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from starlette.types import Message, Receive


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of one body, bytes of all bodies held at once, and seconds to send one."""

    one: int
    together: int
    seconds: float


class BodyRefusedError(Exception):
    """The body is not read; `status` says why in HTTP's terms."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ClientGoneError(Exception):
    """The client hung up before its body was complete."""


class Bodies:
    """All bodies of one server."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    @asynccontextmanager
    async def read(self, declared: str, receive: Receive) -> AsyncGenerator[bytes]:
        """Read the body, whose Content-Length is `declared`, and count it until the block ends.

        Raises ClientGoneError or BodyRefusedError: 413 too large, 408 too slow, 503 no memory left.
        """
        if declared.isascii() and declared.isdigit() and int(declared) > self._limits.one:
            raise self._too_large()
        body = bytearray()
        try:
            with anyio.move_on_after(self._limits.seconds) as deadline:
                while await self._more(body, receive):
                    pass
            if deadline.cancelled_caught:
                raise BodyRefusedError(408, "The request body came too slowly.")
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def _more(self, body: bytearray, receive: Receive) -> bool:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > self._limits.one:
            raise self._too_large()
        if self._held + len(chunk) > self._limits.together:
            raise BodyRefusedError(503, "Too many large requests at once; try again later.")
        body += chunk
        self._held += len(chunk)
        return bool(message.get("more_body", False))

    def _too_large(self) -> BodyRefusedError:
        return BodyRefusedError(413, f"The request body is over {self._limits.one} bytes.")


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one message, and then what really comes."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal first
        if first is not None:
            message, first = first, None
            return message
        return await receive()

    return replayed
