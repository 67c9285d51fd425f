# SPDX-License-Identifier: Apache-2.0
"""What the guest's own name server (kit/guest/asking.c) learns of names: only whether they exist.

A session gives it every CONNECT to HOST and PORT, which leads nowhere else. The guest sends a name
a line; each gets a line `NAME STATUS SECONDS`, in any order, with a status of `Known`. The guest
makes up the addresses: it learns none, and connects by name. A name that the rules refuse is found
without being looked up, so that no name server sees it: connecting is what is refused, and
recorded. At most AT_ONCE names of an environment are answered at once, and the next line is not
read before; all questions have a rate, and new names also that of `resolver`. Must not know SSH.
"""

from __future__ import annotations

import asyncio
import enum
import math
import re
from collections.abc import Awaitable, Callable
from typing import Final

from waggle.infra.net import PeerGone, Stream
from waggle.infra.net.guest_request import Target
from waggle.infra.net.pace import Pace
from waggle.infra.net.resolver import Existence, Status, TooManyNames

HOST: Final = "names.waggle.internal"
PORT: Final = 53
AT_ONCE: Final = 64
QUESTIONS_AT_ONCE: Final = 512
QUESTIONS_PER_SECOND: Final = 200
"""Of one environment, known names too: the guest remembers answers, and a flood costs the loop."""
MAX_LINE: Final = 254
"""Bytes of a line with its end."""
REFUSED_SECONDS: Final = 5
"""Rules change, and a refused name is then to be looked up."""
_CHUNK: Final = 4096
_NAME: Final = re.compile(rb"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")

Exists = Callable[[str], Awaitable[Existence]]
"""Returns what is known of an ASCII name. Raises TooManyNames. Has an end; cancellable."""


class Known(enum.StrEnum):
    """The word for what is known of a name."""

    FOUND = "found"
    EMPTY = "empty"
    """It exists, and has no address."""
    NONE = "none"
    """It does not exist."""
    FAILED = "failed"
    """Nobody knows now."""


_KNOWN: Final = {
    Status.FOUND: Known.FOUND,
    Status.NO_ADDRESS: Known.EMPTY,
    Status.NO_NAME: Known.NONE,
    Status.NO_ANSWER: Known.FAILED,
}


def is_for_names(target: Target) -> bool:
    """Whether a CONNECT to `target` asks for names, and not for a connection."""
    return target.host == HOST and target.port == PORT


def always(_name: str) -> bool:
    """Whether a name may be looked up, where no rules say so."""
    return True


class Names:
    """The names of one environment, over however many of its connections."""

    def __init__(
        self,
        exists: Exists,
        *,
        may_look_up: Callable[[str], bool] = always,
        pace: Pace | None = None,
    ) -> None:
        self._exists = exists
        self._pace = Pace(QUESTIONS_AT_ONCE, QUESTIONS_PER_SECOND) if pace is None else pace
        self._may_look_up = may_look_up
        self._room = asyncio.Semaphore(AT_ONCE)

    async def serve(self, guest: Stream, early: bytes) -> None:
        """Answer until the guest hangs up or sends what is no name; `early` came with its request.

        Raises PeerGone. The caller ends the stream. Cancelling it drops all questions.
        """
        broken = False
        try:
            async with asyncio.TaskGroup() as group:
                await self._read(guest, early, group)
        except* _NotAName:
            pass
        except* PeerGone:
            broken = True
        if broken:
            raise PeerGone

    async def _read(self, guest: Stream, early: bytes, group: asyncio.TaskGroup) -> None:
        data = early
        while True:
            *lines, data = data.split(b"\n")
            for line in lines:
                if len(line) >= MAX_LINE or not _NAME.fullmatch(line):
                    raise _NotAName
                if (seconds := self._pace.take()) > 0:
                    await asyncio.sleep(seconds)
                await self._room.acquire()
                task = group.create_task(self._answer(guest, line.decode("ascii")))
                task.add_done_callback(lambda _: self._room.release())
            if len(data) >= MAX_LINE:
                raise _NotAName
            more = await guest.read(_CHUNK)
            if not more:
                return
            data += more

    async def _answer(self, guest: Stream, name: str) -> None:
        known, seconds = await self._look_up(name)
        await guest.write(f"{name} {known} {seconds}\n".encode("ascii"))

    async def _look_up(self, name: str) -> tuple[Known, int]:
        if not self._may_look_up(name):
            return Known.FOUND, REFUSED_SECONDS
        try:
            found = await self._exists(name)
        except TooManyNames:
            return Known.FAILED, 0
        return _KNOWN[found.status], math.ceil(found.seconds)


class _NotAName(Exception):
    """The guest broke the protocol."""
