# SPDX-License-Identifier: Apache-2.0
"""A place where syncing a file costs nothing, for hundreds of syncs that need no durability.

The fixture `in_memory` of tests/conftest.py is a directory there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

IN_MEMORY: Final = Path("/dev/shm")
