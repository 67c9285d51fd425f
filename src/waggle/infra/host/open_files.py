# SPDX-License-Identifier: Apache-2.0
"""How many files this process may open: read by `waggle doctor`, raised when a server starts.

A shell's usual 1,024 are fewer than the connections that a server takes. What it starts gets limits
of its own (`waggle.infra.shared.confined`).
"""

from __future__ import annotations

import resource
from collections.abc import Callable

MOST = 1 << 20
"""Beyond this nothing is gained, and programs that close all descriptors there may be take long."""


def reachable(soft: int, hard: int) -> int:
    """What a process with these limits can raise its own to. Pure."""
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    return soft if soft == resource.RLIM_INFINITY else max(soft, most)


def limits() -> tuple[int, int]:
    """The limit of this process, and the one up to which it may raise it."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_limit(
    change: Callable[[int, tuple[int, int]], None] = resource.setrlimit,
) -> int:
    """Raise this process's limit as far as it may. Returns what it then is; never raises."""
    soft, hard = limits()
    wanted = reachable(soft, hard)
    if wanted == soft:
        return soft
    try:
        change(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a kernel or a container that allows less than it says
        return soft
    return wanted
