# SPDX-License-Identifier: Apache-2.0
"""What the kit's program `files` answers, taken apart. Used by `trees`. Pure.

All of it is the guest's word: nonsense is a ValueError, and text is cleaned where it is shown. It
is read field by field, and no field or number of records may exceed what the program writes.
"""

from __future__ import annotations

import posixpath
from typing import Final

from waggle.domain.errors import (
    FileNotFound,
    FileRefused,
    GuestLost,
    InvalidArgument,
    WaggleError,
)
from waggle.domain.files.search import MAX_CONTEXT, Kind, Match, Searched, SearchQuery
from waggle.domain.files.tree import MAX_TOLD, Skipped, Unpacked
from waggle.domain.programs.execution import ExecutionResult
from waggle.infra.ssh.sftp.entries import shown

_WORD: Final = 200
_COUNT: Final = 20
_PATH: Final = 100 * 256
_LINES: Final = 2 * MAX_CONTEXT + 1
_LINE: Final = 320
"""Bytes that files.c shows of a line, with the marks of what it has cut."""
_HINT: Final = "Something in the environment changed its tools; use execute instead."


def refusal(path: str, result: ExecutionResult) -> WaggleError:
    """What the program's end means; its words are the guest's."""
    words = shown(result.stderr.text().strip())
    if result.exit_code == 1 and words == "No such file or directory":
        return FileNotFound(f"There is no {shown(path)}.")
    if result.exit_code == 1:
        return FileRefused(
            f"{shown(path)} cannot be opened: {words}.",
            hint="Look at it with list_files; execute with user 'root' may do more.",
        )
    if result.exit_code == 2 and words:
        return InvalidArgument(
            f"The pattern cannot be used: {words}.",
            hint="It is a POSIX extended regular expression, with \\d, \\w, \\s and \\b; set "
            "regex to false to find text as it is.",
        )
    return GuestLost(
        f"The guest's program for files failed ({result.signal or result.exit_code}).",
        hint=_HINT,
    )


def nonsense() -> GuestLost:
    """The failure for an answer that is none."""
    return GuestLost("The guest's program for files gave an answer that is none.", hint=_HINT)


class CutOff(ValueError):
    """The answer ends in the middle."""


class _Fields:
    """The fields of an answer, each ended by a NUL byte."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def next(self, limit: int) -> bytes:
        """The next field. Raises ValueError when it is over `limit` bytes, CutOff at the end."""
        at = self._at
        end = self._data.find(b"\0", at, at + limit + 1)
        if end < 0:
            if len(self._data) - at > limit:
                raise ValueError("a field is too long")
            raise CutOff("the end is missing")
        self._at = end + 1
        return self._data[at:end]

    def count(self) -> int:
        """The next field, a number from 0 on."""
        value = int(self.next(_COUNT))
        if not 0 <= value < 1 << 62:
            raise ValueError("not a count")
        return value


def searched(query: SearchQuery, answer: bytes, *, timed_out: bool) -> Searched:
    """What the program printed, up to where its time was up. Raises ValueError for nonsense."""
    fields = _Fields(answer)
    matches: list[Match] = []
    try:
        while (kind := fields.next(1)) != b"e":
            if len(matches) >= query.max_results:
                raise ValueError("more than was asked for")
            matches.append(_match(query, kind, fields))
        why = _stopped(fields.next(_WORD))
        return Searched(query.path, tuple(matches), why, *(fields.count() for _ in range(5)))
    except CutOff:
        if not timed_out:
            raise
    return Searched(query.path, tuple(matches), "time")


def _stopped(word: bytes) -> str:
    text = word.decode("ascii")
    if text not in ("", "results", "output", "entries", "bytes", "time"):
        raise ValueError("an unknown end")
    return text


def _match(query: SearchQuery, kind: bytes, fields: _Fields) -> Match:
    name = fields.next(_PATH).decode("utf-8", "backslashreplace")
    path = posixpath.join(query.path, name) if name else query.path
    if kind == b"f":
        letter = fields.next(1).decode("ascii")
        return Match(path, Kind(letter), size=fields.count())
    if kind != b"m":
        raise ValueError("an unknown record")
    line, column, before = fields.count(), fields.count(), fields.count()
    lines = tuple(fields.next(_LINES * _LINE).decode("utf-8", "replace").split("\n", _LINES))
    if len(lines) > _LINES or before >= len(lines) or not line or not column:
        raise ValueError("a match without its line, or with too many")
    return Match(
        path,
        Kind.FILE,
        line=line,
        column=column,
        text=lines[before],
        before=lines[:before],
        after=lines[before + 1 :],
    )


def unpacked(answer: bytes) -> Unpacked:
    """What the program says of entries that it unpacked. Raises ValueError for nonsense."""
    fields = _Fields(answer)
    failures: list[Skipped] = []
    while (kind := fields.next(1)) == b"x":
        if len(failures) >= MAX_TOLD:
            raise ValueError("more failures than are told")
        name, why = fields.next(_PATH), fields.next(_WORD)
        failures.append(Skipped(name, shown(why.decode("utf-8", "replace"))))
    if kind != b"e":
        raise ValueError("an unknown record")
    return Unpacked(*(fields.count() for _ in range(5)), failures=tuple(failures))
