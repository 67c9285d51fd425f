# SPDX-License-Identifier: Apache-2.0
"""The lab is a package beside `src`, run by `python -m`; pytest has to be told where."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
