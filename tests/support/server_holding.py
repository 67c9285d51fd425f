# SPDX-License-Identifier: Apache-2.0
"""The resources of a server's process, seen from outside, and whether they keep growing.

`holding` counts them; `memory_kb` takes one sample, `growth_kb` evaluates many samples.
"""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.waggle_process import Waggle

NOISE_KB = 4_000
"""Memory that comes and goes with garbage and the allocator's arenas, or comes once."""
LEAK_KB = 25
"""Per cycle. Over 1,000 cycles a leak of twice that is found, despite the noise."""


POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads of asyncio's pool, which grows to that size and stays."""


def holding(server: Waggle) -> Counter[str]:
    """Count its descriptors, threads, children, ports, directories, mounts and control groups."""
    process = Path("/proc") / str(server.process.pid)
    kinds: Counter[str] = Counter()
    for entry in (process / "fd").iterdir():
        try:
            kinds[f"descriptor {re.sub(r'[0-9]+', 'N', str(entry.readlink()))}"] += 1
        except FileNotFoundError:
            continue  # the one that reads this directory, or just closed
    kinds["threads"] = len(list((process / "task").iterdir()))
    kinds["mounts"] = len((process / "mountinfo").read_text().splitlines())
    kinds.update(f"child {name}" for name in server.children())
    for name, found in server.remains().items():
        assert isinstance(found, list)
        kinds[name] = len(found)  # pyright: ignore[reportUnknownArgumentType] - of anything
    kinds["control groups"] = len(list(Path("/sys/fs/cgroup").glob("**/waggle-*/machine-*")))
    return kinds


def memory_kb(server: Waggle) -> int:
    """Return its resident memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


def growth_kb(samples: Sequence[int]) -> float:
    """Return the growth per sample, from the medians of the first and the last quarter."""
    quarter = max(1, len(samples) // 4)
    first, last = statistics.median(samples[:quarter]), statistics.median(samples[-quarter:])
    return (last - first) / max(1, len(samples) - quarter)


def leaks(samples: Sequence[int]) -> bool:
    """Whether the memory grows with each sample, as far as this number of samples shows. Pure."""
    between = len(samples) - max(1, len(samples) // 4)
    return growth_kb(samples) * between > LEAK_KB * between + NOISE_KB
