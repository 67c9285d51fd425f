# SPDX-License-Identifier: Apache-2.0
"""Read one JSON-RPC message. Pure.

`waggle.web` and `waggle.stdio` call `read` before the SDK gets a message: the SDK takes a request
with an odd id for a notification and never answers it, and refuses other mistakes in its parser's
words. Knows no methods except `tools/call`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
