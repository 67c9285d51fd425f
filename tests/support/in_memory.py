# SPDX-License-Identifier: Apache-2.0
"""Where to sync a file costs nothing: for hundreds of syncs whose durability is not the question.

The fixture `in_memory` of tests/conftest.py is a directory there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

IN_MEMORY: Final = Path("/dev/shm")
