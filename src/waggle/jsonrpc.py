# SPDX-License-Identifier: Apache-2.0
"""Read one JSON-RPC message, and bound the structure of a JSON text before it is parsed. Pure.

`waggle.web` and `waggle.stdio` call `read` before the SDK gets a message: the SDK takes a request
with an odd id for a notification and never answers it, and refuses other mistakes in its parser's
words. Before that they feed `Structure`: a parser makes objects as fast as a client sends brackets,
and 31 MiB of `[],` become 1 GiB and block the server for half a minute. Invalid JSON is counted at
least up to where a parser would stop. Knows no methods except `tools/call`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, cast

import mcp_types
import pydantic_core
from mcp_types import PROTOCOL_VERSION_META_KEY, RequestId

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
SERVER_BUSY: Final = -32000

CALL: Final = "tools/call"

Carrier = Literal["body", "line"]
"""The unit that carries one message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request, a notification (without an id), or a response (without a method)."""

    method: str | None
    id: RequestId | None
    params: Mapping[str, object]

    @property
    def is_self_contained(self) -> bool:
        """Whether it names its protocol version itself, as messages do since 2026-07-28."""
        return PROTOCOL_VERSION_META_KEY in _object(self.params.get("_meta"))


@dataclass(frozen=True, slots=True)
class NoMessage:
    """Why data is no message: the id to answer to, if any, a JSON-RPC error code, and a reason."""

    id: RequestId | None
    code: int
    why: str


def read(data: bytes, carrier: Carrier) -> Message | NoMessage:
    """Parse `data`. The SDK reads every message that this accepts in the same way."""
    try:
        value: object = pydantic_core.from_json(data)
    except ValueError:
        return _unreadable(data, carrier)
    if isinstance(value, list):
        why = f"Batches are not supported: send one message a {carrier}."
        return NoMessage(None, INVALID_REQUEST, why)
    fields = _object(value)
    number, method = _id(fields), fields.get("method")
    if fields.get("jsonrpc") != "2.0":
        why = f"The {carrier} is not a JSON-RPC 2.0 message."
    elif not isinstance(method, str):
        if _is_response(fields):
            return Message(None, number, {})
        why = "A message has a method, or an id with a result or an error."
    elif any(fields.get(name) is not None for name in ("result", "error")):
        why = "A message is a request or an answer: it has a method, or a result or an error."
    elif number is None and "id" in fields:
        why = "The id of a request is a string or an integer; a notification has none."
    elif not isinstance(fields.get("params"), dict | None):
        why = "The params of a message are an object."
    else:
        params = _object(fields.get("params"))
        if why := unusable(method, params):
            return NoMessage(number, INVALID_PARAMS, why)
        return Message(method, number, params)
    return NoMessage(number, INVALID_REQUEST, why)


def unusable(method: str, params: Mapping[str, object]) -> str:
    """Return why the SDK would refuse a call, which it does without a reason; else empty."""
    if method != CALL:
        return ""
    if not isinstance(params.get("name"), str):
        return 'The params of tools/call have the name of a tool: {"name": "...", "arguments": {}}.'
    if not isinstance(params.get("arguments"), dict | None):
        return "The arguments of tools/call are an object, not a list and not JSON in a string."
    return ""


def _unreadable(data: bytes, carrier: Carrier) -> NoMessage:
    """Distinguish invalid JSON from JSON with a lone surrogate, which JavaScript writes escaped."""
    try:
        number = _id(_object(json.loads(data.decode())))
    except (ValueError, RecursionError):
        why = f"The {carrier} is not valid JSON in UTF-8: send one message a {carrier}."
        return NoMessage(None, PARSE_ERROR, why)
    why = f"The {carrier} has a lone surrogate in it, which is no text, or is nested too deeply."
    return NoMessage(number, PARSE_ERROR, why)


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _id(fields: dict[str, object]) -> RequestId | None:
    """Return the id if a response can carry it."""
    number = fields.get("id")
    if isinstance(number, str):
        return number if _is_text(number) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_response(fields: dict[str, object]) -> bool:
    try:
        mcp_types.jsonrpc_message_adapter.validate_python(fields, by_name=False)
    except ValueError:
        return False
    return True


PIECE = 64 * 1024
"""Bytes that are scanned at once."""
LONG = PIECE
"""The least bytes of a long string; shorter ones are left to the parser."""

_OTHERS = bytes(set(range(256)) - set(b"[]{},"))
_STEP = bytes({91: 1, 123: 1, 93: 255, 125: 255}.get(byte, 0) for byte in range(256))
"""How each byte changes the depth: by 1, by -1 (as a signed byte), or not at all."""


class StructureRefusedError(ValueError):
    """The text exceeds a bound; the message says which one, to follow "It has"."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most lists and objects, commas, levels, and bytes outside of strings in one text.

    Commas bound the members of lists and objects; the bytes outside of strings bound long numbers,
    whose parsing takes the square of their length.
    """

    containers: int = 200_000
    commas: int = 200_000
    depth: int = 64
    outside: int = 4 * 1024 * 1024


BOUNDS = Bounds()


class Structure:
    """Counts of the text so far, and the places of its long strings."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self._bounds = bounds
        self.containers = 0
        self.commas = 0
        self.deepest = 0
        self.outside = 0
        self.long: list[tuple[int, int]] = []
        """Where each long string begins and ends, without its quotes."""
        self._quotes = 0
        self._depth = 0
        self._at = 0
        self._string: int | None = None
        """Where the string that is still open begins."""
        self._kept = b""
        """A backslash whose next byte has not arrived."""

    def feed(self, data: bytes | bytearray) -> None:
        """Scan the next bytes. Raises StructureRefusedError, after which the object is unusable."""
        for start in range(0, len(data), PIECE):
            self._look(self._kept + data[start : start + PIECE])

    def _look(self, data: bytes) -> None:
        # Escapes are replaced by as many bytes, so that all positions stay.
        plain = data.replace(b"\\\\", b"..").replace(b'\\"', b"..") if b"\\" in data else data
        if plain.endswith(b"\\"):
            plain, self._kept = plain[:-1], b"\\"
        else:
            self._kept = b""
        parts = plain.split(b'"')
        self._quotes += len(parts) - 1
        within = self._string is not None
        self._count(b"".join(parts[1 if within else 0 :: 2]))
        self._follow(parts, within)
        self._at += len(plain)

    def _count(self, outside: bytes) -> None:
        bounds = self._bounds
        self.outside += len(outside)
        signs = outside.translate(None, _OTHERS)
        self.containers += signs.count(b"[") + signs.count(b"{")
        self.commas += signs.count(b",")
        _check(self.containers, bounds.containers, "lists and objects")
        _check(self.commas, bounds.commas, "commas outside of strings")
        _check(self._quotes, 4 * (bounds.commas + 1), "quotes around strings")
        _check(self.outside, bounds.outside, "bytes outside of strings")
        if signs:
            steps = array("b", signs.translate(None, b",").translate(_STEP))
            here = max(accumulate(steps, initial=self._depth))
            self.deepest = max(self.deepest, here)
            self._depth += sum(steps)
            _check(self.deepest, bounds.depth, "levels of lists and objects")
            if self._depth < 0:
                raise StructureRefusedError("more ends than beginnings of lists and objects")

    def _follow(self, parts: list[bytes], within: bool) -> None:
        """Record long strings: only a string that is open at the end of a piece can be long."""
        if self._string is not None and len(parts) > 1:
            end = self._at + len(parts[0])
            if end - self._string >= LONG:
                self.long.append((self._string, end))
        if within == (len(parts) % 2 == 1):  # the piece ends in a string
            if len(parts) > 1:
                self._string = self._at + sum(map(len, parts[:-1])) + len(parts) - 1
        else:
            self._string = None


def _check(found: int, most: int, what: str) -> None:
    if found > most:
        raise StructureRefusedError(f"more than {most:,} {what}")
