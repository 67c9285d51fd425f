# SPDX-License-Identifier: Apache-2.0
"""Events of the outer machine, sent as one JSON object per line by inside/run.py. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True, slots=True)
class Up:
    """The outer machine is up, `seconds` after its kernel started."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Started:
    """A job starts and has `seconds`."""

    job: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """A job printed a line."""

    text: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The outer machine still runs, whatever its job does."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job ended; code 124 means that it was ended at its deadline."""

    job: str
    code: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Over:
    """All jobs ended."""


Event = Up | Started | Line | Beat | Ended | Over


@dataclass(slots=True)
class Progress:
    """The state after all events so far: the ended jobs and the running one."""

    up: bool = False
    running: str = ""
    ended: list[Ended] = field(default_factory=list[Ended])
    over: bool = False

    def take(self, event: Event) -> None:
        """Record an event."""
        match event:
            case Up():
                self.up = True
            case Started(job=job):
                self.running = job
            case Ended():
                self.running = ""
                self.ended.append(event)
            case Over():
                self.over = True
            case Line() | Beat():
                pass


def parse(line: bytes) -> Event | None:
    """Parse one line. Returns None if it is no event: a line may be cut if the machine dies."""
    try:
        said = json.loads(line)
        fields = cast("dict[str, object]", said) if isinstance(said, dict) else {}
        return _event(fields)
    except (ValueError, KeyError, TypeError):
        return None


def _event(fields: dict[str, object]) -> Event | None:
    match fields.get("event"):
        case "up":
            return Up(_number(fields["seconds"]))
        case "start":
            return Started(str(fields["job"]), _number(fields["seconds"]))
        case "line":
            return Line(str(fields["text"]))
        case "beat":
            return Beat()
        case "end":
            code = fields["code"]
            if not isinstance(code, int):
                return None
            return Ended(str(fields["job"]), code, _number(fields["seconds"]))
        case "over":
            return Over()
        case _:
            return None


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError
    return float(value)
