# SPDX-License-Identifier: Apache-2.0
"""The messages of a terminal's websocket, the query of its URL, and its close codes. Pure.

Binary messages are bytes of the terminal, both ways; texts are JSON objects. `waggle.web.terminal`
is the server of it; docs/terminals.md describes it for clients.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import GuestUser
from waggle.domain.programs.guest_job import Terminal
from waggle.domain.programs.job import JobState, JobView, parse_signal
from waggle.service.programs.terminals import parse_size

SUBPROTOCOL = "waggle.terminal"
CLOSE_ENDED = 1000
CLOSE_INVALID = 1008
CLOSE_FAILED = 1011
CLOSE_STOPPING = 1012
CLOSE_GONE = 4001
"""The program is lost with its environment."""
CLOSE_REFUSED = 4003
"""The token is not valid any more."""
MAX_CONTROL = 1_000
_LARGEST = 1 << 53
_STANDARD = Terminal()
_PARAMETERS = ("rows", "columns", "job", "offset", "user")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The query of a terminal's URL. Without a `job` a new shell is started."""

    size: Terminal = _STANDARD
    has_size: bool = False
    job: int | None = None
    offset: int | None = None
    user: str = GuestUser.SANDBOX


def parse_wanted(query: bytes) -> Wanted:
    """Parse a query. Raises InvalidArgument for anything that is not as documented."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise InvalidArgument("The query cannot be read.") from None
    given = dict(pairs)
    if len(given) < len(pairs) or not given.keys() <= set(_PARAMETERS):
        raise InvalidArgument(f"A terminal takes each of {', '.join(_PARAMETERS)} once.")
    user = given.get("user", GuestUser.SANDBOX.value)
    if user not in [known.value for known in GuestUser]:
        raise InvalidArgument("The user is sandbox or root.")
    job, offset = _number(given, "job"), _number(given, "offset")
    if job is None and offset is not None:
        raise InvalidArgument("An offset is one of a job's output.", hint="Give job as well.")
    rows, columns = _number(given, "rows"), _number(given, "columns")
    size = parse_size(
        _STANDARD.rows if rows is None else rows,
        _STANDARD.columns if columns is None else columns,
    )
    return Wanted(size, rows is not None or columns is not None, job, offset, user)


def _number(given: dict[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or int(text) > _LARGEST:
        raise InvalidArgument(f"{name} must be a whole number, 0 or more.")
    return int(text)


@dataclass(frozen=True, slots=True)
class Resize:
    """The client's window has another size."""

    size: Terminal


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the program, by its name; `waggle.domain.programs.job.SIGNALS` has them."""

    name: str


def parse_control(text: str) -> Resize | Signal:
    """Parse a text of a client. Raises InvalidArgument for anything else than it may send."""
    if len(text) > MAX_CONTROL:
        raise InvalidArgument("A control message is too long.")
    try:
        message = cast("object", json.loads(text))
    except (ValueError, RecursionError):
        raise InvalidArgument("A control message is no JSON.") from None
    if not isinstance(message, dict) or len(cast("dict[str, Any]", message)) != 1:
        raise InvalidArgument("A control message is an object with one name.")
    ((name, value),) = cast("dict[str, Any]", message).items()
    if name == "resize" and isinstance(value, list):
        sizes = cast("list[object]", value)
        if len(sizes) == 2:
            return Resize(parse_size(*sizes))
    if name == "signal" and isinstance(value, str):
        parse_signal(value)
        return Signal(value.removeprefix("SIG"))
    raise InvalidArgument('A control message is {"resize": [ROWS, COLUMNS]} or {"signal": NAME}.')


def encode(**values: object) -> str:
    """Return a text for a client."""
    return json.dumps(values)


def ending(view: JobView) -> tuple[str, int]:
    """Return the last text for a client, and the code of the close that follows."""
    if view.state is JobState.EXITED:
        return encode(exit=view.exit_code), CLOSE_ENDED
    if view.state is JobState.LOST:
        return encode(lost=view.error), CLOSE_GONE
    return encode(signal=view.signal or "SIGKILL"), CLOSE_ENDED
