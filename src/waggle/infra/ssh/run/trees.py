# SPDX-License-Identifier: Apache-2.0
"""Search, pack and unpack trees in a guest with the kit's program `files`: one run for each.

Used by `service.local_guest`. What the program prints is the guest's word: bounded, and taken apart
by `answers` so that nonsense is an error. It runs in the image's root, as the user that programs
run as.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from waggle.domain.errors import TimedOut
from waggle.domain.files.search import (
    SEARCH_SECONDS,
    Searched,
    SearchQuery,
    escaped,
    glob_expression,
)
from waggle.domain.files.tree import MAX_RECORDS_BYTES, MAX_TREE_BYTES, MAX_TREE_ENTRIES, Unpacked
from waggle.domain.programs.execution import Command, ExecutionResult, Output, Stream, Streams
from waggle.infra.ssh.run.answers import nonsense, refusal, searched, unpacked
from waggle.infra.ssh.run.output import OutputCollector
from waggle.tasks import end

Run = Callable[[Command, Streams | None], Awaitable[ExecutionResult]]

_PROGRAM: Final = "/.waggle/bin/files"
_GRACE: Final = 15.0
"""Seconds for a slow guest to start the program and to send what it found."""
_TREE_SECONDS: Final = 120.0
_ANSWER_LIMIT: Final = 1_200_000
"""Bytes; search.c stops after 1 MiB and one line, unpack.c tells of 100 failures."""
_AT_ONCE: Final = 64 << 10
"""Bytes that are read on the event loop: names that are no UTF-8 take long."""
_ERROR_LIMIT: Final = 2_000


class Trees:
    """Runs the program. `run` is `Shell.run`. Safe to cancel, as that is."""

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
            raise nonsense() from error

    async def pack(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        """See `domain.host.Guest.pack_tree`."""
        argv = [_PROGRAM, "pack", "-m", str(MAX_TREE_BYTES), "-n", str(MAX_TREE_ENTRIES)]
        if exclude:
            argv += ["-x", glob_expression(exclude)]
        records = _Bounded(into, MAX_RECORDS_BYTES)
        asking = asyncio.ensure_future(self._ask((*argv, path), path, _TREE_SECONDS, into=records))
        flooded = asyncio.ensure_future(records.over.wait())
        try:
            await asyncio.wait({asking, flooded}, return_when=asyncio.FIRST_COMPLETED)
            if records.over.is_set():
                raise nonsense()
            result = asking.result()
        finally:
            await end(asking, flooded)
        if result.timed_out:
            raise _late()

    async def unpack(self, path: str, records: bytes) -> Unpacked:
        """See `domain.host.Guest.unpack_tree`."""
        argv = (_PROGRAM, "unpack", path)
        result = await self._ask(argv, path, _TREE_SECONDS, stdin=records)
        if result.timed_out:
            raise _late()
        answer = _whole(result)
        try:
            return unpacked(answer)
        except ValueError as error:
            raise nonsense() from error

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
    """Passes on so many bytes; `over` is set when there are more."""

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
        """As the stream has it."""
        return self._into.output()


def _whole(result: ExecutionResult) -> bytes:
    """What it printed. Raises GuestLost when that is more than the program prints."""
    if result.stdout.dropped:
        raise nonsense()
    return result.stdout.head + result.stdout.tail


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


def _late() -> TimedOut:
    return TimedOut(
        f"The tree was not done within {_TREE_SECONDS:g} s.", hint="Take a part of it at a time."
    )
