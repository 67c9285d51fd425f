# SPDX-License-Identifier: Apache-2.0
"""The audit log: a JSON line for each tool call, request for resources or prompts, and connection.

Appends to a file or to stderr. The file is the server's user's alone (0600), and links are not
followed. It is opened again after it was moved or removed (logrotate) and on `reopen` (SIGHUP). A
full disk loses lines and is reported in the server's log, but breaks no call. JSON escapes all but
printable ASCII, so no client text can end a line. Every permitted call has a line. An owner can
make thousands of refused ones a second, so `Thinning`, which the composition root also uses, leaves
one a second for each owner and outcome, and `more_in_last_second` counts the others. Connections
of guests are thinned by `egress_lines`, with `"method": "egress"`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import stat
import sys
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar, cast

import structlog

from waggle.domain.errors import SettingsInvalid
from waggle.domain.observer import Call, Egress, Observer
from waggle.infra.observe.egress_lines import EgressLines

SECONDS = 1.0
T = TypeVar("T")


def after(seconds: float, do: Callable[[], None]) -> None:
    """Call `do` on this event loop after `seconds`."""
    asyncio.get_running_loop().call_later(seconds, do)


class Thinning(Generic[T]):
    """A filter that passes on at most one item per kind and second, against hostile floods.

    Calls `pass_on(item, more)`: the first item at once, then the last of each second, with `more`
    others of its kind left out. Keeps one item and a count per kind. Must not know the items.
    """

    def __init__(
        self,
        pass_on: Callable[[T, int], None],
        later: Callable[[float, Callable[[], None]], None] = after,
    ) -> None:
        self._pass_on = pass_on
        self._later = later
        self._kept: dict[Hashable, tuple[T | None, int]] = {}

    def __call__(self, kind: Hashable, item: T) -> None:
        """Pass on `item` now, or count it."""
        if (kept := self._kept.get(kind)) is not None:
            self._kept[kind] = item, kept[1] + 1
            return
        self._kept[kind] = None, 0
        self._later(SECONDS, lambda: self._end_second(kind))
        self._pass_on(item, 0)

    def flush(self) -> None:
        """Pass on at once the items that are only counted so far."""
        for kind in tuple(self._kept):
            self._pass_on_rest(kind)

    def _end_second(self, kind: Hashable) -> None:
        if self._pass_on_rest(kind):
            self._later(SECONDS, lambda: self._end_second(kind))
        else:
            self._kept.pop(kind, None)

    def _pass_on_rest(self, kind: Hashable) -> bool:
        last, count = self._kept.get(kind, (None, 0))
        if last is None:
            return False
        self._kept[kind] = None, 0
        self._pass_on(last, count - 1)
        return True


log = structlog.get_logger(__name__)

MAX_PROGRAM = 8_000
CHECK_SECONDS = 1.0
REPORT_SECONDS = 60.0
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KEPT = 0o640
"""Mode bits that an existing file keeps, such as one made by logrotate."""
_TOO_OPEN = 0o137


REFUSED = frozenset(
    {
        *("invalid_argument", "invalid_runtime", "unsupported", "unknown_tool", "rate_limited"),
        *("not_found", "job_not_found", "max_environments", "quota_exceeded", "too_many_jobs"),
        "job_ended",
    }
)
"""Outcomes of calls that were refused before they did anything."""


class AuditLog(Observer):
    """The writer of the log. `path` None means stderr, which is not closed. Close it at the end."""

    def __init__(
        self,
        path: Path | None,
        *,
        programs: bool,
        network: bool = True,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None] = after,
    ) -> None:
        """Open the file. `programs` also logs code and commands, `network` connections of guests.

        Raises SettingsInvalid.
        """
        self._refused: Thinning[Call] = Thinning(self._log, later)
        self._egress = EgressLines(self._log_egress, later) if network else None
        self._path = path
        self._programs = programs
        self._now = now
        self._monotonic = monotonic
        self._checked = monotonic()
        self._reported = -REPORT_SECONDS
        self._lost = 0
        self._torn = False
        try:
            self._descriptor = sys.stderr.fileno() if path is None else _open(path)
        except OSError as error:
            raise SettingsInvalid(
                f"WAGGLE_AUDIT_LOG={path} cannot be written: {error.strerror}.",
                hint="It must be a regular file, or one that can be made; links are not followed.",
            ) from error

    def call_ended(self, call: Call) -> None:
        """Write a line, or count it. Never raises."""
        if call.outcome in REFUSED:
            self._refused((call.owner, call.outcome), call)
        else:
            self._log(call, 0)

    def connection_ended(self, egress: Egress) -> None:
        """Write a line, or count it. Never raises."""
        if self._egress is not None:
            self._egress(egress)

    def _log(self, call: Call, more: int) -> None:
        self._put(audit_line(call, self._now(), programs=self._programs, more=more))

    def _log_egress(self, egress: Egress, more: int) -> None:
        self._put(egress_line(egress, self._now(), more))

    def _put(self, line: bytes) -> None:
        try:
            self._reopen_if_moved()
            self._write(line)
        except OSError as error:
            self._lost += 1
            self._report_failure(error)

    def reopen(self) -> None:
        """Open the file by its name again. Never raises; on failure it keeps the old one."""
        if self._path is None:
            return
        try:
            fresh = _open(self._path)
        except OSError as error:
            self._report_failure(error)
            return
        os.close(self._descriptor)
        self._descriptor = fresh
        self._torn = False

    def close(self) -> None:
        """Write what is only counted so far, and close the file."""
        self._refused.flush()
        if self._egress is not None:
            self._egress.flush()
        if self._path is not None:
            os.close(self._descriptor)

    def _reopen_if_moved(self) -> None:
        """Check at most once a second whether the path still names the file; if not, reopen."""
        now = self._monotonic()
        if self._path is None or now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        held = os.fstat(self._descriptor)
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            self.reopen()
            return
        if (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            self.reopen()

    def _write(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(0, "only a part of a line was written")
        if self._lost:
            log.error("audit_log_works_again", lost=self._lost)
            self._lost = 0

    def _report_failure(self, error: OSError) -> None:
        now = self._monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            log.error("audit_log_failed", why=error.strerror, lost=self._lost)


def audit_line(call: Call, now: datetime, *, programs: bool, more: int = 0) -> bytes:
    """Return the line with its newline; `more` similar calls are left out. Pure."""
    fields: dict[str, object] = {
        "time": _time(now),
        "owner": call.owner,
        "method": call.method,
        "tool": call.tool or None,
        "environment": call.environment_id,
        "outcome": call.outcome,
        "duration_ms": round(call.seconds * 1000, 1),
        "session": call.session,
        "client": call.address,
    }
    if more:
        fields["more_in_last_second"] = more
    if programs and call.program is not None:
        fields["program"] = _program(call.program)
    return _ENCODER.encode(fields).encode("ascii") + b"\n"


def egress_line(egress: Egress, now: datetime, more: int = 0) -> bytes:
    """Return the line of a connection with its newline; it includes `more` similar ones. Pure."""
    decision = egress.decision
    fields: dict[str, object] = {
        "time": _time(now),
        "owner": egress.owner,
        "method": "egress",
        "environment": egress.environment_id,
        "outcome": decision.code,
        "rule": decision.rule or None,
        "host": decision.host or None,
        "port": decision.port or None,
        "address": decision.address or None,
        "sent_bytes": egress.sent,
        "received_bytes": egress.received,
        "duration_ms": round(egress.seconds * 1000, 1),
    }
    if more:
        fields["more_in_last_second"] = more
    return _ENCODER.encode(fields).encode("ascii") + b"\n"


def _time(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _program(program: object) -> str:
    """Return a client's code or command as text, cut to MAX_PROGRAM characters."""
    if isinstance(program, list):
        words: list[str] = []
        size = 0
        for word in cast("list[object]", program):
            words.append(str(word)[: MAX_PROGRAM + 1])
            size += len(words[-1]) + 1
            if size > MAX_PROGRAM:
                break
        program = shlex.join(words)
    text = program if isinstance(program, str) else type(program).__name__
    return text if len(text) <= MAX_PROGRAM else f"{text[:MAX_PROGRAM]}[...]"


def _open(path: Path) -> int:
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "not a regular file")
        if mode & _TOO_OPEN:
            os.fchmod(descriptor, mode & _KEPT)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
