# SPDX-License-Identifier: Apache-2.0
"""Resources of this process: children, threads, descriptors (and with them sockets, port locks).

`Leaks()` records the current ones; `settle` returns when there are no others, and fails with a list
of the others if that does not happen in time.
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
    """A snapshot of this process to compare with later. Also usable without pytest."""

    def __init__(self) -> None:
        self._before = held()

    def left(self) -> Counter[str]:
        """Count the resources that are held now beyond the snapshot."""
        return held() - self._before

    async def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until nothing is left: no event shows that the kernel has released everything."""
        try:
            await until(lambda: not self.left(), seconds)
        except AssertionError:
            raise AssertionError(f"left behind: {dict(self.left())}") from None


def held() -> Counter[str]:
    """Count all resources, by kind."""
    kinds: Counter[str] = Counter()
    kinds.update(f"child {name}" for name in children(os.getpid()))
    kinds.update(f"descriptor {name}" for name in _descriptors())
    kinds.update(f"thread {thread.name}" for thread in threading.enumerate() if _counts(thread))
    return kinds


def children(parent: int) -> list[str]:
    """Return the names of all living descendants. A zombie counts: it was not reaped."""
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
    """Whether a thread counts. Asyncio's worker pool grows to its limit and stays: no leak."""
    return not thread.name.startswith(("asyncio_", "AnyIO worker", "waitpid-"))


def _descriptors() -> list[str]:
    """List the open descriptors without the numbers that differ each time."""
    names: list[str] = []
    for entry in (_PROC / "self" / "fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        names.append(re.sub(r":\[\d+\]", "", target))
    return names
