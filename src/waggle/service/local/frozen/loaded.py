# SPDX-License-Identifier: Apache-2.0
"""Frozen machines that are held in memory, so that their copies share it and need not wait.

Used by `templates` and `snapshots`. What nobody uses goes when others were used since.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from waggle.domain.machine import Frozen
from waggle.tasks import finish

KEPT = 3
"""How many stay without a user; each is as large as what its machine had written: 80 to 200 MB."""


@dataclass(slots=True)
class _Entry:
    frozen: Frozen | None = None
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Loaded:
    """Frozen machines by their directories. `close` it when no machine is started any more."""

    def __init__(self, load: Callable[[Path], Frozen], *, keep: int = KEPT) -> None:
        self._load = load
        self._keep = keep
        self._entries: dict[tuple[Path, int], _Entry] = {}

    @contextlib.asynccontextmanager
    async def using(self, directory: Path) -> AsyncGenerator[Frozen]:
        """Hold what is frozen in a directory; read at most once. Raises OSError."""
        key = directory, directory.stat().st_ino
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry  # the last in order is the one that was used last
        entry.users += 1
        try:
            async with entry.turn:
                frozen = entry.frozen or await finish(self._read(entry, directory))
            yield frozen
        finally:
            entry.users -= 1
            self._trim(self._keep)

    async def _read(self, entry: _Entry, directory: Path) -> Frozen:
        """Into the entry, which closes it one day, whether or not its first user is still there."""
        entry.frozen = await asyncio.to_thread(self._load, directory)
        return entry.frozen

    def _trim(self, keep: int) -> None:
        idle = [key for key, entry in self._entries.items() if not entry.users]
        for key in idle[: max(0, len(idle) - keep)]:
            if (frozen := self._entries.pop(key).frozen) is not None:
                frozen.close()

    def close(self) -> None:
        """Let go of all that nobody uses."""
        self._trim(0)


async def closing_with(
    stack: contextlib.ExitStack | contextlib.AsyncExitStack, work: Awaitable[Frozen]
) -> Frozen:
    """What `work` gives, closed with the stack. To be run by `finish`.

    A caller that is cancelled meanwhile never gets the result, but its stack has it.
    """
    frozen = await work
    stack.callback(frozen.close)
    return frozen
