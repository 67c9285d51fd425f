# SPDX-License-Identifier: Apache-2.0
"""Search, packing and unpacking of trees in a guest, by runs of the kit's program `files`.

The guest controls every byte of the answer: fields are checked against the program's own limits,
and an invalid answer is an error. It runs in the image's root, as the user that programs run as.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from waggle.domain.errors import (
    FileNotFound,
    FileRefused,
    GuestLost,
    InvalidArgument,
    TimedOut,
    WaggleError,
)
from waggle.domain.files.search import (
    MAX_CONTEXT,
    SEARCH_SECONDS,
    Kind,
    Match,
    Searched,
    SearchQuery,
    escaped,
    glob_expression,
)
from waggle.domain.files.tree import (
    MAX_LISTED,
    MAX_RECORDS_BYTES,
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    Skipped,
    Unpacked,
)
from waggle.domain.programs import Command, ExecutionResult, Output, Stream, Streams
from waggle.infra.ssh.run.launcher import OutputCollector
from waggle.infra.ssh.sftp.reading import shown
from waggle.tasks import end

_WORD: Final = 200
_COUNT: Final = 20
_PATH: Final = 100 * 256
_LINES: Final = 2 * MAX_CONTEXT + 1
_LINE: Final = 320
"""Bytes that files.c shows of a line, with the marks where it was cut."""
_HINT: Final = "Something in the environment changed its tools; use execute instead."


def refusal(path: str, result: ExecutionResult) -> WaggleError:
    """Return the error for a failed run; the guest chose the words in it."""
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


def invalid_answer() -> GuestLost:
    """Return the error for an invalid answer."""
    return GuestLost("The guest's program for files gave an invalid answer.", hint=_HINT)


class CutOff(ValueError):
    """The answer is cut off in the middle."""


class _Fields:
    """The fields of an answer, which end with NUL bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def next(self, limit: int) -> bytes:
        """Return the next field. Raises ValueError if it is over `limit`, CutOff at the end."""
        at = self._at
        end = self._data.find(b"\0", at, at + limit + 1)
        if end < 0:
            if len(self._data) - at > limit:
                raise ValueError("a field is too long")
            raise CutOff("the end is missing")
        self._at = end + 1
        return self._data[at:end]

    def count(self) -> int:
        """Return the next field as a number, 0 or more. Raises ValueError."""
        value = int(self.next(_COUNT))
        if not 0 <= value < 1 << 62:
            raise ValueError("not a count")
        return value


def searched(query: SearchQuery, answer: bytes, *, timed_out: bool) -> Searched:
    """Parse a search, cut off if it timed out. Raises ValueError for an invalid answer."""
    fields = _Fields(answer)
    matches: list[Match] = []
    try:
        while (kind := fields.next(1)) != b"e":
            if len(matches) >= query.max_results:
                raise ValueError("more matches than requested")
            matches.append(_match(query, kind, fields))
        why = _stop_reason(fields.next(_WORD))
        return Searched(query.path, tuple(matches), why, *(fields.count() for _ in range(5)))
    except CutOff:
        if not timed_out:
            raise
    return Searched(query.path, tuple(matches), "time")


def _stop_reason(word: bytes) -> str:
    text = word.decode("ascii")
    if text not in ("", "results", "output", "entries", "bytes", "time"):
        raise ValueError("an unknown reason")
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
    """Parse the report of an unpack. Raises ValueError for an invalid answer."""
    fields = _Fields(answer)
    failures: list[Skipped] = []
    while (kind := fields.next(1)) == b"x":
        if len(failures) >= MAX_LISTED:
            raise ValueError("more failures than it lists")
        name, why = fields.next(_PATH), fields.next(_WORD)
        failures.append(Skipped(name, shown(why.decode("utf-8", "replace"))))
    if kind != b"e":
        raise ValueError("an unknown record")
    return Unpacked(*(fields.count() for _ in range(5)), failures=tuple(failures))


Run = Callable[[Command, Streams | None], Awaitable[ExecutionResult]]

PROGRAM: Final = "/.waggle/bin/files"
_GRACE: Final = 15.0
"""Seconds for a slow guest to start the program and to send the results."""
_TREE_SECONDS: Final = 120.0
_ANSWER_LIMIT: Final = 1_200_000
"""Bytes; search.c stops after 1 MiB and one line, unpack.c reports 100 failures."""
_AT_ONCE: Final = 64 << 10
"""Bytes that are parsed on the event loop: names that are not UTF-8 take long."""
_ERROR_LIMIT: Final = 2_000


class Trees:
    """The runner of the program `files`. `run` is `Shell.run`. Safe to cancel, like `Shell.run`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def search(self, query: SearchQuery) -> Searched:
        """See `domain.host.Guest.search`."""
        result = await self._ask(_search_argv(query), query.path, SEARCH_SECONDS + _GRACE)
        answer = _whole(result)
        read = partial(searched, query, answer, timed_out=result.timed_out)
        try:
            return read() if len(answer) <= _AT_ONCE else await asyncio.to_thread(read)
        except ValueError as error:
            raise invalid_answer() from error

    async def pack(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        """See `domain.host.Guest.pack_tree`."""
        argv = [PROGRAM, "pack", "-m", str(MAX_TREE_BYTES), "-n", str(MAX_TREE_ENTRIES)]
        if exclude:
            argv += ["-x", glob_expression(exclude)]
        records = _Bounded(into, MAX_RECORDS_BYTES)
        asking = asyncio.ensure_future(self._ask((*argv, path), path, _TREE_SECONDS, into=records))
        flooded = asyncio.ensure_future(records.over.wait())
        try:
            await asyncio.wait({asking, flooded}, return_when=asyncio.FIRST_COMPLETED)
            if records.over.is_set():
                raise invalid_answer()
            result = asking.result()
        finally:
            await end(asking, flooded)
        if result.timed_out:
            raise _out_of_time()

    async def unpack(self, path: str, records: bytes) -> Unpacked:
        """See `domain.host.Guest.unpack_tree`."""
        argv = (PROGRAM, "unpack", path)
        result = await self._ask(argv, path, _TREE_SECONDS, stdin=records)
        if result.timed_out:
            raise _out_of_time()
        answer = _whole(result)
        try:
            return unpacked(answer)
        except ValueError as error:
            raise invalid_answer() from error

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
            raise refusal(path, result)
        return result


class _Bounded:
    """A stream that passes on at most `limit` bytes; `over` is set when more come."""

    def __init__(self, into: Stream, limit: int) -> None:
        self._into = into
        self._left = limit
        self.over = asyncio.Event()

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        if len(data) > self._left:
            self.over.set()
        else:
            self._left -= len(data)
            self._into.feed(data)

    def output(self) -> Output:
        """Return the stream's output."""
        return self._into.output()


def _whole(result: ExecutionResult) -> bytes:
    """Return the whole stdout. Raises GuestLost if it is more than the program prints."""
    if result.stdout.dropped:
        raise invalid_answer()
    return result.stdout.head + result.stdout.tail


def _search_argv(query: SearchQuery) -> tuple[str, ...]:
    argv = [PROGRAM, "search", "-m", str(query.max_results), "-c", str(query.context_lines)]
    argv += ["-s", str(SEARCH_SECONDS)]
    if query.ignore_case:
        argv.append("-i")
    if query.name:
        argv += ["-n", glob_expression([query.name])]
    if query.exclude:
        argv += ["-x", glob_expression(query.exclude)]
    if query.content:
        # The program's own case folding knows ASCII letters only.
        plain = not query.regex and not (query.ignore_case and not query.content.isascii())
        if plain:
            argv += ["-t", query.content]
        else:
            argv += ["-e", query.content if query.regex else escaped(query.content)]
    return (*argv, query.path)


def _out_of_time() -> TimedOut:
    return TimedOut(
        f"The tree was not done within {_TREE_SECONDS:g} s.", hint="Take a part of it at a time."
    )
