# SPDX-License-Identifier: Apache-2.0
"""What the kit's program `files` answers, taken apart. Used by `trees`. Pure.

All of it is the guest's word: nonsense is a ValueError, and text is cleaned where it is shown.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

from waggle.domain.errors import (
    FileNotFound,
    FileRefused,
    GuestLost,
    InvalidArgument,
    WaggleError,
)
from waggle.domain.execution import ExecutionResult
from waggle.domain.search import Kind, Match, Searched, SearchQuery
from waggle.domain.tree import Skipped, Unpacked
from waggle.infra.ssh.entries import shown

_HINT: Final = "Something in the environment changed its tools; use run_command instead."


def refusal(path: str, result: ExecutionResult) -> WaggleError:
    """What the program's end means; its words are the guest's."""
    words = shown(result.stderr.text().strip())
    if result.exit_code == 1 and words == "No such file or directory":
        return FileNotFound(f"There is no {shown(path)}.")
    if result.exit_code == 1:
        return FileRefused(
            f"{shown(path)} cannot be opened: {words}.",
            hint="Look at it with list_files; run_command with user 'root' may do more.",
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


def searched(query: SearchQuery, answer: bytes, *, timed_out: bool) -> Searched:
    """What the program printed, up to where its time was up. Raises ValueError for nonsense."""
    fields = answer.split(b"\0")
    if not timed_out and fields[-1]:
        raise ValueError("the end is missing")
    left = iter(fields[:-1])
    matches: list[Match] = []
    try:
        while (kind := next(left, b"")) and len(matches) < query.max_results:
            if kind == b"e":
                why = _stopped(next(left))
                return Searched(query.path, tuple(matches), why, *(_count(left) for _ in range(5)))
            matches.append(_match(query, kind, left))
    except (StopIteration, RuntimeError):
        if not timed_out:
            raise ValueError("a record is cut off") from None
    return Searched(query.path, tuple(matches), "time" if timed_out else "results")


def _stopped(word: bytes) -> str:
    text = word.decode("ascii")
    if text not in ("", "results", "output", "entries", "bytes", "time"):
        raise ValueError("an unknown end")
    return text


def _count(fields: Iterator[bytes]) -> int:
    value = int(next(fields))
    if not 0 <= value < 1 << 62:
        raise ValueError("not a count")
    return value


def _match(query: SearchQuery, kind: bytes, fields: Iterator[bytes]) -> Match:
    name = next(fields).decode("utf-8", "backslashreplace")
    path = posixpath.join(query.path, name) if name else query.path
    if kind == b"f":
        letter = next(fields).decode("ascii")
        return Match(path, Kind(letter), size=_count(fields))
    if kind != b"m":
        raise ValueError("an unknown record")
    line, column, before = _count(fields), _count(fields), _count(fields)
    lines = tuple(next(fields).decode("utf-8", "replace").split("\n"))
    if before >= len(lines) or not line or not column:
        raise ValueError("a match without its line")
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
    fields = iter(answer.split(b"\0"))
    failures: list[Skipped] = []
    try:
        while (kind := next(fields)) == b"x":
            name, why = next(fields), next(fields)
            failures.append(Skipped(name, shown(why.decode("utf-8", "replace"))))
        if kind != b"e":
            raise ValueError("an unknown record")
        counts = [_count(fields) for _ in range(5)]
    except StopIteration:
        raise ValueError("the end is missing") from None
    return Unpacked(*counts, failures=tuple(failures))
