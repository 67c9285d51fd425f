# SPDX-License-Identifier: Apache-2.0
"""A real Firecracker and its jailer, for tests outside the lab: users bring their own.

They are those that the lab runs, and lie where the lab keeps them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from lab.check import lab_store
from lab.firecracker import FIRECRACKER, JAILER, VERSION, ensure

from waggle.config import load
from waggle.config.places import Places

__all__ = ["FIRECRACKER", "JAILER", "VERSION", "programs"]


def programs() -> Path:
    """Return the directory that holds both programs, fetched if need be. Blocks.

    Raises SetupIncomplete.
    """
    return asyncio.run(ensure(lab_store(Places.of(load()).cache), lambda _line: None))
