# SPDX-License-Identifier: Apache-2.0
"""The QEMU guest agent protocol: one JSON object a line, over a stream that the caller owns.

Protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. The guest may answer late,
wrongly, endlessly or never: lines are bounded, every call has a deadline, and `guest-sync` with a
fresh number drops stale answers before each call.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Final, cast

from waggle.domain.errors import GuestLost

MAX_ANSWER: Final = 256 * 1024
DEADLINE: Final = 5.0
_MAX_STALE: Final = 64


class GuestAgent:
    """Calls the agent, one call at a time. Closing the streams is the owner's business."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`reader` must have been opened with a limit of at least MAX_ANSWER."""
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def call(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """The `return` value of a command. `DEADLINE` seconds for the whole call.

        Raises GuestLost when the agent does not answer, or answers with an error.
        """
        try:
            async with asyncio.timeout(DEADLINE), self._turn:
                token = secrets.randbelow(1 << 48)
                self._send("guest-sync", {"id": token})
                await self._answer(token)
                self._send(command, arguments or {})
                return await self._answer(None)
        except (TimeoutError, OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            raise GuestLost(
                f"The guest agent did not answer {command}: {type(error).__name__}.", hint=""
            ) from error

    def _send(self, command: str, arguments: Mapping[str, object]) -> None:
        message = {"execute": command, "arguments": dict(arguments)}
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _answer(self, token: int | None) -> object:
        """The next answer, or with `token` the one that returns it, dropping stale ones."""
        for _ in range(_MAX_STALE):
            line = await self._reader.readuntil(b"\n")
            message: object = json.loads(line.lstrip(b"\xff"))
            if not isinstance(message, dict):
                raise ValueError("not an object")
            answer = cast("dict[str, object]", message)
            if token is None and "error" in answer:
                raise ValueError("the agent refused")
            if token is None or answer.get("return") == token:
                return answer.get("return")
        raise ValueError("too many stale answers")
