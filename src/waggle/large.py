# SPDX-License-Identifier: Apache-2.0
"""Read a large message once, in pieces, in a thread that does not block the event loop. Pure.

Called in a thread by `waggle.web` for bodies whose structure `waggle.jsonrpc` has counted. A parser
holds Python's lock until it is done, also in a thread. So long strings are taken out of the text
and decoded piece by piece, and the rest is parsed. The SDK, which parses a body again, gets a small
one without the arguments; the tool gets the arguments that were read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pydantic_core

from waggle.jsonrpc import CALL, INVALID_REQUEST, PARSE_ERROR, Carrier, Message, NoMessage, read

LARGE = 256 * 1024
"""Bytes from which a message is read in this way."""
MAX_TEXT = 16 * 1024 * 1024
"""Characters of all long strings: a file of 10 MiB as base64 is 14 million. One wide character
makes every character of its string take four bytes."""
ARGUMENTS = "waggle.arguments"
"""The key of a request's scope that holds the arguments of a large call."""
ONE_ANSWER = "waggle.one_answer"
"""The key of a request's scope that is true if its client gets the answer alone, as JSON: what the
server sends before that, such as questions, does not reach it."""

_PIECE = 128 * 1024
_MARK = "\0long string "
_WRITTEN_MARK = b"\\u0000long string %d"
_WHOLE = re.compile(rb"(?:[^\\]++|\\u[dD][89abAB]..\\u....|\\u....|\\[^u])*+", re.DOTALL)
_HALF = re.compile(rb"\\u[dD][89abAB]..\Z", re.DOTALL)
_FIRST_BYTES = range(0xC0, 0x100)
_LATER_BYTES = range(0x80, 0xC0)
_SHORT = 1_000


@dataclass(frozen=True, slots=True)
class Large:
    """A message, its text for the SDK, and the arguments that this text lacks."""

    message: Message
    text: bytes
    arguments: dict[str, Any] | None


class TooLarge(NoMessage):
    """A message that is larger than one without files can be."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that a message without files may have, and the tools that carry files."""

    ordinary: int
    carriers: Collection[str]

    def refusal(self, message: Message, size: int) -> TooLarge | None:
        """Return why a message of `size` bytes is refused, or None."""
        if size <= self.ordinary:
            return None
        if message.method == CALL and message.params.get("name") in self.carriers:
            return None
        why = f"The message has {size} bytes; only calls that carry files have over {self.ordinary}"
        return TooLarge(message.id, INVALID_REQUEST, f"{why}: {', '.join(sorted(self.carriers))}.")


def read_large(
    text: bytearray,
    long: Sequence[tuple[int, int]],
    carrier: Carrier,
    sizes: Sizes,
    pause: Callable[[], None],
) -> Large | NoMessage:
    """Parse `text`, which has long strings at `long`, and empty it after decoding them.

    `pause` is called after each piece of a string, so that other threads can work.
    """
    message = read(_without(text, long), carrier)
    if isinstance(message, NoMessage):
        return message
    if refusal := sizes.refusal(message, len(text)):
        return refusal
    arguments = message.params.get("arguments")
    if message.method != CALL or not isinstance(arguments, dict):
        whole = bytes(text)
        message = read(whole, carrier)
        return message if isinstance(message, NoMessage) else Large(message, whole, None)
    try:
        strings = [_decoded(text, start, end, pause) for start, end in long]
    except ValueError:
        why = f"The {carrier} is not valid JSON in UTF-8: send one message a {carrier}."
        return NoMessage(message.id, PARSE_ERROR, why)
    text.clear()
    if sum(len(piece) for pieces in strings for piece in pieces) > MAX_TEXT:
        why = f"The long strings have over {MAX_TEXT:,} characters together."
        return NoMessage(message.id, INVALID_REQUEST, why)
    given = cast("dict[str, Any]", arguments)
    if sorted(_put_back(given, strings)) != [*range(len(long))]:
        why = "A string of over 64 KiB is read in the arguments only, as a value."
        return NoMessage(message.id, INVALID_REQUEST, why)
    return Large(message, _for_the_sdk(message, given), given)


def _without(text: bytearray, long: Iterable[tuple[int, int]]) -> bytes:
    """Return the text with a mark in the place of each long string."""
    parts, at = list[bytes | bytearray](), 0
    for number, (start, end) in enumerate(long):
        parts += [text[at:start], _WRITTEN_MARK % number]
        at = end
    return b"".join([*parts, text[at:]])


def _decoded(text: bytearray, start: int, end: int, pause: Callable[[], None]) -> list[str]:
    """Return a string in pieces. Raises ValueError when it is invalid."""
    pieces: list[str] = []
    while start < end:
        until = _cut(text, start, min(start + _PIECE, end), end)
        piece: object = pydantic_core.from_json(b'"%b"' % text[start:until])
        if not isinstance(piece, str):
            raise ValueError("no string")
        pieces.append(piece)
        start = until
        pause()
    return pieces


def _cut(text: bytearray, start: int, stop: int, end: int) -> int:
    """Return where a piece can end, at `stop` or shortly before, without splitting a character.

    Nor does it split an escape. Raises ValueError when no character begins there.
    """
    if stop == end:
        return end
    found = _WHOLE.match(text, start, stop)
    until = found.end() if found else start
    if half := _HALF.search(text, max(start, until - 6), until):
        until = half.start()
    if text[until] in _LATER_BYTES:
        until -= 1
        while until > start and text[until] not in _FIRST_BYTES:
            until -= 1
    if until <= start:
        raise ValueError("no character begins here")
    return until


def _put_back(arguments: dict[str, Any], strings: Sequence[list[str]]) -> list[int]:
    """Replace each mark by its string; return the numbers of the marks that were found.

    A mark that the client itself wrote makes them too many.
    """
    found, left = list[int](), list[Any]([arguments])
    while left:
        inside = left.pop()
        for key, value in _members(inside):
            if isinstance(value, str) and (number := _number(value)) in range(len(strings)):
                inside[key] = "".join(strings[number])
                found.append(number)
            elif isinstance(value, dict | list):
                left.append(value)
    return found


def _number(value: str) -> int:
    """Return the number of a mark; -1 for any other text."""
    number = value.removeprefix(_MARK) if value.startswith(_MARK) else ""
    return int(number) if number.isascii() and number.isdigit() and len(number) < 5 else -1


def _members(inside: dict[str, Any] | list[Any]) -> list[tuple[Any, Any]]:
    return [*(inside.items() if isinstance(inside, dict) else enumerate(inside))]


def _for_the_sdk(message: Message, arguments: Mapping[str, Any]) -> bytes:
    """Return the message with the arguments that the SDK compares with headers: short ones."""
    short = {name: value for name, value in arguments.items() if _is_short(value)}
    params = {**message.params, "arguments": short}
    fields = {"jsonrpc": "2.0", "method": message.method, "params": params}
    return json.dumps(fields if message.id is None else {**fields, "id": message.id}).encode()


def _is_short(value: object) -> bool:
    return isinstance(value, bool | None) or (isinstance(value, str) and len(value) <= _SHORT)
