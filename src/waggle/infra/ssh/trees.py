# SPDX-License-Identifier: Apache-2.0
"""Search, pack and unpack trees in a guest with the kit's program `files`: one run for each.

Used by `service.local_guest`. What the program prints is the guest's word: bounded, and parsed so
that nonsense is an error. It runs in the image's root, as the user that programs run as.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from waggle.domain.errors import (
    FileNotFound,
    FileRefused,
    GuestLost,
    InvalidArgument,
    TimedOut,
    WaggleError,
)
from waggle.domain.execution import Command, ExecutionResult, Stream, Streams
from waggle.domain.search import (
    SEARCH_SECONDS,
    Kind,
    Match,
    Searched,
    SearchQuery,
    escaped,
    glob_expression,
)
from waggle.domain.tree import MAX_TREE_BYTES, MAX_TREE_ENTRIES, Skipped, Unpacked
from waggle.infra.ssh.entries import shown
from waggle.infra.ssh.output import OutputCollector

Run = Callable[[Command, Streams | None], Awaitable[ExecutionResult]]

_PROGRAM: Final = "/.waggle/bin/files"
_GRACE: Final = 15.0
"""Seconds for a slow guest to start the program and to send what it found."""
_TREE_SECONDS: Final = 120.0
_ANSWER_LIMIT: Final = 8 << 20
_ERROR_LIMIT: Final = 2_000
_NONSENSE: Final = "Something in the environment changed its tools; use run_command instead."


class Trees:
    """Runs the program. `run` is `Shell.run`. Safe to cancel, as that is."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def search(self, query: SearchQuery) -> Searched:
        """See `domain.host.Guest.search`."""
        result = await self._ask(_search_argv(query), query.path, SEARCH_SECONDS + _GRACE)
        output = result.stdout
        if output.dropped:
            raise _nonsense()
        try:
            return _searched(query, output.head + output.tail, timed_out=result.timed_out)
        except ValueError as error:
            raise _nonsense() from error

    async def pack(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        """See `domain.host.Guest.pack_tree`."""
        argv = [_PROGRAM, "pack", "-m", str(MAX_TREE_BYTES), "-n", str(MAX_TREE_ENTRIES)]
        if exclude:
            argv += ["-x", glob_expression(exclude)]
        result = await self._ask((*argv, path), path, _TREE_SECONDS, into=into)
        if result.timed_out:
            raise _late()

    async def unpack(self, path: str, records: bytes) -> Unpacked:
        """See `domain.host.Guest.unpack_tree`."""
        argv = (_PROGRAM, "unpack", path)
        result = await self._ask(argv, path, _TREE_SECONDS, stdin=records)
        if result.timed_out:
            raise _late()
        try:
            return _unpacked(result.stdout.head + result.stdout.tail)
        except ValueError as error:
            raise _nonsense() from error

    async def _ask(
        self,
        argv: tuple[str, ...],
        path: str,
        seconds: float,
        *,
        stdin: bytes = b"",
        into: Stream | None = None,
    ) -> ExecutionResult:
        command = Command(argv, seconds, _ANSWER_LIMIT, cwd="/", stdin=stdin)
        streams = Streams(into or OutputCollector(_ANSWER_LIMIT), OutputCollector(_ERROR_LIMIT))
        result = await self._run(command, streams)
        if result.exit_code != 0 and not result.timed_out:
            raise _refusal(path, result)
        return result


def _search_argv(query: SearchQuery) -> tuple[str, ...]:
    argv = [_PROGRAM, "search", "-m", str(query.max_results), "-c", str(query.context_lines)]
    argv += ["-s", str(SEARCH_SECONDS)]
    if query.ignore_case:
        argv.append("-i")
    if query.name:
        argv += ["-n", glob_expression([query.name])]
    if query.exclude:
        argv += ["-x", glob_expression(query.exclude)]
    if query.content:
        # The program's own folding knows the letters of ASCII only.
        plain = not query.regex and not (query.ignore_case and not query.content.isascii())
        if plain:
            argv += ["-t", query.content]
        else:
            argv += ["-e", query.content if query.regex else escaped(query.content)]
    return (*argv, query.path)


def _refusal(path: str, result: ExecutionResult) -> WaggleError:
    """What the program's end means; its words are the guest's."""
    words = shown(result.stderr.text().strip())
    if result.exit_code == 1 and words == "No such file or directory":
        return FileNotFound(f"There is no {shown(path)}.")
    if result.exit_code == 1:
        return FileRefused(f"{shown(path)} cannot be opened: {words}.")
    if result.exit_code == 2 and words:
        return InvalidArgument(
            f"The pattern cannot be used: {words}.",
            hint="It is a POSIX extended regular expression, with \\d, \\w, \\s and \\b; set "
            "regex to false to find text as it is.",
        )
    return GuestLost(
        f"The guest's program for files failed ({result.signal or result.exit_code}).",
        hint=_NONSENSE,
    )


def _nonsense() -> GuestLost:
    return GuestLost("The guest's program for files gave an answer that is none.", hint=_NONSENSE)


def _late() -> TimedOut:
    return TimedOut(
        f"The tree was not done within {_TREE_SECONDS:g} s.", hint="Take a part of it at a time."
    )


def _searched(query: SearchQuery, answer: bytes, *, timed_out: bool) -> Searched:
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


def _unpacked(answer: bytes) -> Unpacked:
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
