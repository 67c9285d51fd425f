# SPDX-License-Identifier: Apache-2.0
"""What a guest keeps for the server about each of its jobs. Pure.

So another server, or a copy of the machine, knows its jobs. A note is JSON. The guest can change
it: it is parsed strictly and bounded, and says only what its owner may see anyway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from waggle.domain.names import is_id
from waggle.domain.programs import GuestUser
from waggle.domain.programs.guest_job import MAX_NOTE_BYTES
from waggle.domain.programs.job import MAX_SUMMARY, JobKind

MAX_NUMBER = 1_000_000
_MAX_LIMIT = 10.0**9
_MAX_WORD = 200


@dataclass(frozen=True, slots=True)
class Note:
    """What to know about a job. `program` is argv's first word.

    Of a context, and of code that runs in one, `context` is its name, `language` its language; of
    the latter `context_id` is the context's id in the guest.
    """

    number: int
    kind: JobKind
    summary: str
    limit: float
    program: str
    user: GuestUser = GuestUser.SANDBOX
    context: str = ""
    language: str = ""
    context_id: str = ""

    def encode(self) -> bytes:
        """Return the note as the guest keeps it."""
        values = {
            "number": self.number,
            "kind": self.kind,
            "summary": self.summary,
            "limit": self.limit,
            "program": self.program[:_MAX_WORD],
            "user": self.user,
            "context": self.context,
            "language": self.language,
            "context_id": self.context_id,
        }
        return json.dumps(values).encode()


def parse_note(data: bytes) -> Note | None:
    """Return the note; None if it is none, or cut."""
    if len(data) > MAX_NOTE_BYTES:
        return None
    try:
        values = cast("object", json.loads(data))
        return _note(cast("dict[str, Any]", values)) if isinstance(values, dict) else None
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None


def _note(values: dict[str, Any]) -> Note:
    number, limit = values["number"], float(values["limit"])
    if type(number) is not int or not 1 <= number <= MAX_NUMBER or not 0 <= limit <= _MAX_LIMIT:
        raise ValueError("a number out of bounds")
    return Note(
        number=number,
        kind=JobKind(values["kind"]),
        summary=_text(values["summary"], MAX_SUMMARY),
        limit=limit,
        program=_text(values["program"], _MAX_WORD),
        user=GuestUser(values["user"]),
        context=_text(values["context"], _MAX_WORD),
        language=_text(values["language"], _MAX_WORD),
        context_id=_id(values["context_id"]),
    )


def _id(value: object) -> str:
    if isinstance(value, str) and (not value or is_id(value)):
        return value
    raise ValueError("no id")


def _text(value: object, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError("a text that is none, or too long")
    return "".join(c if c.isprintable() else "\ufffd" for c in value)
