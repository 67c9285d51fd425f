# SPDX-License-Identifier: Apache-2.0
"""What this process holds of the machine: children, threads, descriptors (so sockets, port locks).

`Leaks()` remembers what there is; `settle` returns once nothing more is there than then, and fails
with the list of what is left when that does not happen in time.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from pathlib import Path

from tests.support.waiting import until

_PROC = Path("/proc")
SETTLE_SECONDS = 10.0


class Leaks:
    """A snapshot of this process to compare with later. Also usable from outside pytest."""

    def __init__(self) -> None:
        self._before = held()

    def left(self) -> Counter[str]:
        """What is held now beyond the snapshot, and how often."""
        return held() - self._before

    async def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until nothing is left: no event tells when the kernel has let go of everything."""
        try:
            await until(lambda: not self.left(), seconds)
        except AssertionError:
            raise AssertionError(f"left behind: {dict(self.left())}") from None


def held() -> Counter[str]:
    """Everything countable, by kind."""
    kinds: Counter[str] = Counter()
    kinds.update(f"child {name}" for name in children(os.getpid()))
    kinds.update(f"descriptor {name}" for name in _descriptors())
    kinds.update(f"thread {thread.name}" for thread in threading.enumerate() if _counts(thread))
    return kinds


def children(parent: int) -> list[str]:
    """The names of all living descendants. A zombie counts: somebody forgot to reap it."""
    found: list[str] = []
    for directory in _PROC.iterdir():
        if directory.name.isdigit():
            try:
                stat = (directory / "stat").read_text("utf-8", "replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            name, rest = stat[stat.index("(") : stat.rindex(")") + 1], stat[stat.rindex(")") + 2 :]
            if int(rest.split()[1]) == parent:
                found += [name, *children(int(directory.name))]
    return found


def _counts(thread: threading.Thread) -> bool:
    """Asyncio's pool of worker threads grows up to its limit and stays; that is no leak."""
    return not thread.name.startswith(("asyncio_", "AnyIO worker", "waitpid-"))


def _descriptors() -> list[str]:
    """What is open, without the numbers that differ each time."""
    names: list[str] = []
    for entry in (_PROC / "self" / "fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        names.append(re.sub(r":\[\d+\]", "", target))
    return names
