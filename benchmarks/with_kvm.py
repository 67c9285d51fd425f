# SPDX-License-Identifier: Apache-2.0
"""Measurements that need KVM: here, or if it does not work, in the lab's outer machine (minutes).

Used by `krun` and `firecracker`, whose other halves, `..._inside`, run where KVM works.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lab.check import judge, lab_store, look
from lab.display import Display
from lab.jobs import Job
from lab.store import Store

from lab import session
from waggle.config import load
from waggle.config.places import Places

SECONDS = 1500.0


def is_here() -> bool | None:
    """Return whether KVM works here. None: the lab cannot run either, and a line has said why."""
    verdict = judge(look())
    if verdict.needless:
        return True
    if verdict.can_run:
        return False
    obstacles = "; ".join((*verdict.obstacles, *verdict.mends))
    sys.stderr.write(f"Nothing is measured: {obstacles}\n")
    return None


def store() -> Store:
    """Return the lab's store."""
    return lab_store(Places.of(load()).cache)


async def in_the_lab(name: str, command: str, reports: Path, put: Path | None = None) -> None:
    """Run a command in an outer machine; `put` is /lab/put there.

    What it writes to `lab.jobs.REPORTS` comes to `reports`. Raises RuntimeError if it fails.
    """
    wish = session.Wish([Job(name, command, SECONDS)], reports, put=put, total_seconds=SECONDS)
    result = await session.run(load(), store(), wish, Display(sys.stderr))
    if not result.good:
        raise RuntimeError(result.story)
