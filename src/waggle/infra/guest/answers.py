# SPDX-License-Identifier: Apache-2.0
"""What a line from a guest agent says: an answer, a refusal, a notification, or nothing. Pure.

Used by `channel`. The bytes are the guest's, so the structure of a line is bounded before it is
parsed, and what makes a line an error in docs/guest-agent.md makes it nothing here: members that
occur twice, U+0000, numbers over 64 bits, bytes that are not UTF-8. Knows no methods.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn, cast

from waggle.domain.errors import GuestLost
from waggle.infra.guest.protocol import MAX_DEPTH, ErrorCode
from waggle.structure import Bounds, Structure

_BOUNDS: Final = Bounds(containers=4_000, commas=20_000, depth=MAX_DEPTH, outside=256 * 1024)
"""The longest list has 1,000 entries with six members each."""
_DIGITS: Final = 20
_MAX_MESSAGE: Final = 300
_MAX_DATA: Final = 8
"""Members of an error's data that are kept, and of a list in it."""
_MAX_VALUE: Final = 200


class Answer(NamedTuple):
    """The result of the request with this id."""

    id: int
    result: object


class Refusal(NamedTuple):
    """The error with which the request with this id was answered: texts are clean and bounded."""

    id: int
    code: int
    message: str
    data: Mapping[str, str]


class Notice(NamedTuple):
    """A notification."""

    method: str
    params: object


class AgentRefused(GuestLost):
    """The guest agent answered with an error: it works, and did not do what it was asked for.

    `number` is the error's code, `reason` its name in the protocol, or "unknown"; `said` is its
    text, `data` what it says besides. All are the guest's own words, cleaned and bounded.
    """

    default_hint = ""

    def __init__(self, method: str, refusal: Refusal) -> None:
        super().__init__(f"The guest agent refused {method}: {refusal.message}.")
        self.number = refusal.code
        self.said = refusal.message
        self.reason = _reason(refusal.code)
        self.data = refusal.data


class AgentBusy(AgentRefused):
    """The guest agent has as much to do as its policy allows."""

    retryable = True


class AgentEnded(GuestLost):
    """The guest agent ended while it worked on a request. Another one has begun."""

    retryable = True
    default_hint = "Call again."
    _outcome = ""

    def __init__(self, method: str) -> None:
        super().__init__(f"The guest agent ended while it worked on {method}{self._outcome}.")


class EffectUnknown(AgentEnded):
    """What it worked on is not the same when it is done twice."""

    retryable = False
    default_hint = "See whether it did before you call again."
    _outcome = "; it is unknown whether that took effect"


def refused(method: str, refusal: Refusal) -> AgentRefused:
    """Return the error for a refusal."""
    kind = AgentBusy if refusal.code == ErrorCode.BUSY else AgentRefused
    return kind(method, refusal)


def lost(method: str, cause: str) -> GuestLost:
    """Return the error for a call that brought no answer, or one that is none."""
    return GuestLost(f"The guest agent did not carry out {method}: {cause}.", hint="")


def clean(text: str, most: int) -> str:
    """Return a guest's text on one line: no control characters, at most `most` characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def parse(line: bytes) -> Answer | Refusal | Notice | None:
    """Parse a line without its end; None for all that is no message."""
    message = _object(line)
    if message is None or message.get("jsonrpc") != "2.0":
        return None
    number, method = message.get("id"), message.get("method")
    if isinstance(method, str):
        return None if "id" in message else Notice(method, message.get("params"))
    if type(number) is not int or ("result" in message) == ("error" in message):
        return None
    if "result" in message:
        return Answer(number, message["result"])
    return _refusal(number, message["error"])


def _object(line: bytes) -> dict[str, object] | None:
    if not line.lstrip().startswith(b"{") or b"\0" in line:
        return None
    try:
        Structure(_BOUNDS).feed(line)
        value: object = _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    if b"\\u0000" in line and _has_nul(value):
        return None
    return cast("dict[str, object]", value)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a member occurs twice")
    return made


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_integer, parse_constant=_no_number
)


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return any("\0" in name for name in members) or any(map(_has_nul, members.values()))
    return isinstance(value, list) and any(map(_has_nul, cast("list[object]", value)))


def _refusal(number: int, error: object) -> Refusal | None:
    if not isinstance(error, dict):
        return None
    members = cast("dict[str, object]", error)
    code, message = members.get("code"), members.get("message")
    if type(code) is not int or not isinstance(message, str):
        return None
    text = clean(message.strip().rstrip("."), _MAX_MESSAGE) or "it gives no reason"
    return Refusal(number, code, text, _data(members.get("data")))


def _data(data: object) -> Mapping[str, str]:
    members = cast("dict[str, object]", data) if isinstance(data, dict) else {}
    first = list(members.items())[:_MAX_DATA]
    return {clean(name, _MAX_VALUE): clean(_shown(value), _MAX_VALUE) for name, value in first}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in cast("list[object]", value)[:_MAX_DATA])
    return value if isinstance(value, str) else json.dumps(value)


def _reason(code: int) -> str:
    return ErrorCode(code).name.lower() if code in set(ErrorCode) else "unknown"
