# SPDX-License-Identifier: Apache-2.0
"""Watching of files in a guest, by runs of the kit's program `files`; see kit/guest/watch.c.

Called by the local guest. The guest controls every byte of the records: what watch.c would not
print, or more of it than it prints, ends the watch with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from waggle.domain.errors import Unsupported
from waggle.domain.files.guest_files import Names
from waggle.domain.files.search import ALWAYS_SKIPPED, glob_expression
from waggle.domain.programs import Command, ExecutionResult, Output, Streams
from waggle.infra.ssh.run.launcher import OutputCollector
from waggle.infra.ssh.run.trees import PROGRAM, Run, invalid_answer, refusal
from waggle.tasks import end

EVERY: Final = 0.2
"""Seconds between notifications of one watch, at least."""
MAX_NAMES: Final = 100
MAX_NAME: Final = 4_096 + 256
"""Bytes of a record; watch.c keeps the directories' paths below 4,096."""
BURST: Final = 1 << 20
RATE: Final = 256 << 10
"""Bytes of records that a watch may print at once, and every second; watch.c prints 160 KiB."""
_SECONDS: Final = 6 * 3600.0
"""After which the program is ended; the caller starts it again."""
_ERROR_LIMIT: Final = 2_000


class Records:
    """A stream that reads records: the names to notify of next, and whether all were valid.

    It keeps MAX_NAMES names at most. `clock` returns seconds. `filled` is set when there is
    something to notify of, or a record was invalid.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._fed_at = clock()
        self._allowed: float = BURST
        self._names: set[str] = set()
        self._is_anything = False
        self._has_begun = False
        self._rest = b""
        self.is_invalid = False
        self.filled = asyncio.Event()

    def feed(self, data: bytes) -> None:
        """Take the next piece. Ignores everything after an invalid record."""
        if self.is_invalid:
            return
        if not self._allows(len(data)) or not self._read(data):
            self.is_invalid = True
            self._names.clear()
            self._rest = b""
        if self.is_invalid or self._is_anything or self._names:
            self.filled.set()

    def _read(self, data: bytes) -> bool:
        """Note the records that are complete. Return whether all are valid."""
        *records, self._rest = (self._rest + data).split(b"\0")
        return len(self._rest) <= MAX_NAME and all(map(self._take, records))

    def _allows(self, size: int) -> bool:
        now = self._clock()
        self._allowed = min(BURST, self._allowed + (now - self._fed_at) * RATE) - size
        self._fed_at = now
        return self._allowed >= 0

    def _take(self, record: bytes) -> bool:
        """Note a record. Return whether watch.c could have printed it: the first one is empty."""
        if not record:
            self._has_begun = self._is_anything = True
            self._names.clear()
        elif not self._has_begun or len(record) > MAX_NAME or not _is_below(record):
            return False
        elif not self._is_anything:
            self._names.add(record.decode("utf-8", "backslashreplace"))
            if len(self._names) > MAX_NAMES:
                self._is_anything = True
                self._names.clear()
        return True

    def take(self) -> Names:
        """Return and forget the names so far, none if they are not known.

        Raises GuestLost after an invalid record.
        """
        self.filled.clear()
        if self.is_invalid:
            raise invalid_answer()
        names, self._names, self._is_anything = frozenset(self._names), set(), False
        return names

    def output(self) -> Output:
        """Return nothing: names are not kept."""
        return Output(b"")


def _is_below(record: bytes) -> bool:
    """Whether a name cannot lead out of the directory that it is relative to."""
    return not {b"", b".", b".."} & {*record.split(b"/")}


class Watches:
    """The watches of one guest. `run` is `Shell.run`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._under_way: set[asyncio.Future[ExecutionResult]] = set()

    async def watch(self, path: str, changed: Callable[[Names], None]) -> None:
        """See `domain.host.Guest.watch`. Ends quietly with `end_all`."""
        records = Records(asyncio.get_running_loop().time)
        running = asyncio.ensure_future(self._start(path, records))
        notifying = asyncio.ensure_future(_notify(records, changed))
        self._under_way.add(running)
        try:
            await asyncio.wait({running, notifying}, return_when=asyncio.FIRST_COMPLETED)
            if notifying.done():
                notifying.result()
        finally:
            self._under_way.discard(running)
            await end(running, notifying)
        if running.cancelled():
            return
        result = running.result()
        if records.filled.is_set():
            changed(records.take())
        _check(path, result)

    async def _start(self, path: str, records: Records) -> ExecutionResult:
        argv = (PROGRAM, "watch", "-x", glob_expression(ALWAYS_SKIPPED), path)
        command = Command(argv, _SECONDS, _ERROR_LIMIT, cwd="/")
        return await self._run(command, Streams(records, OutputCollector(_ERROR_LIMIT)))

    async def end_all(self, seconds: float) -> None:
        """End all watches; waits so many seconds at most for a guest that does not obey."""
        ending = [*self._under_way]
        for running in ending:
            running.cancel()
        if ending:
            await asyncio.wait(ending, timeout=seconds)


async def _notify(records: Records, changed: Callable[[Names], None]) -> None:
    """Pass names on, at most once in EVERY seconds. Raises GuestLost after an invalid record."""
    while True:
        await records.filled.wait()
        changed(records.take())
        await asyncio.sleep(EVERY)


def _check(path: str, result: ExecutionResult) -> None:
    """Raise the error of a run that failed."""
    if result.timed_out or result.exit_code == 0:
        return
    if result.exit_code == 2:  # wrong usage
        raise Unsupported(
            "This environment continues from an earlier version, which cannot watch files.",
            hint="Create a new one, or read its files again from time to time.",
        )
    raise refusal(path, result)
