# SPDX-License-Identifier: Apache-2.0
"""The QEMU guest agent protocol.

Used by the hypervisors, which own the streams. The protocol is one JSON object per line:
https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. The guest may answer late, wrongly,
endlessly or never: lines are bounded, every call has a deadline, and `guest-sync` with a fresh
number drops stale answers before each call.
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
_MAX_REASON: Final = 200


class GuestAgent:
    """The client of one guest's agent, one call at a time. The owner closes the streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`reader` must have been opened with a limit of at least MAX_ANSWER."""
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def call(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline: float = DEADLINE,
    ) -> object:
        """Return the `return` value of a command. `deadline` is seconds for the whole call.

        Raises GuestLost if the agent does not answer or answers with an error. A call that failed
        or was cancelled does not disturb the next one.
        """
        try:
            async with asyncio.timeout(deadline), self._turn:
                token = secrets.randbelow(1 << 48)
                await self._send("guest-sync", {"id": token})
                await self._synchronise(token)
                await self._send(command, arguments or {})
                answer = _parse(await self._line())
        except TimeoutError:
            raise _failed(command, f"no answer within {deadline:g} s") from None
        except (OSError, EOFError) as error:
            raise _failed(command, "its channel is closed") from error
        except ValueError as error:
            raise _failed(command, str(error)) from error
        if "error" in answer:
            raise _failed(command, f"it refused: {_reason(answer['error'])}")
        return answer.get("return")

    async def _send(self, command: str, arguments: Mapping[str, object]) -> None:
        message = {"execute": command, "arguments": dict(arguments)}
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def _synchronise(self, token: int) -> None:
        """Drop answers to earlier calls, up to the one that returns `token`."""
        for _ in range(_MAX_STALE):
            try:
                if _parse(await self._line()).get("return") == token:
                    return
            except ValueError:
                continue
        raise ValueError("it answers earlier calls only")

    async def _line(self) -> bytes:
        """Read a line. Raises ValueError for one over MAX_ANSWER, whose start is dropped."""
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await self._reader.readexactly(error.consumed)
            raise ValueError("its answer is too long") from error


def _parse(line: bytes) -> dict[str, object]:
    """Parse one answer. Raises ValueError if it is not a JSON object."""
    try:
        message: object = json.loads(line.lstrip(b"\xff"))
    except (ValueError, RecursionError):
        raise ValueError("its answer is not JSON") from None
    if not isinstance(message, dict):
        raise ValueError("its answer is not an object")
    return cast("dict[str, object]", message)


def _reason(error: object) -> str:
    """Return the agent's description of an error, fit for a message."""
    described = cast("dict[str, object]", error).get("desc") if isinstance(error, dict) else error
    text = described if isinstance(described, str) else "no reason given"
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_REASON])


def _failed(command: str, cause: str) -> GuestLost:
    return GuestLost(f"The guest agent did not carry out {command}: {cause}.", hint="")
