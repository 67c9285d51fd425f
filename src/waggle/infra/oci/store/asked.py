# SPDX-License-Identifier: Apache-2.0
"""When a registry was last asked what a name means: the time of an empty file beside the layout.

Called by the pulling service. Other tools that read the layout do not see it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


class Asked:
    """The times of one store; safe for several processes."""

    def __init__(self, layout: Path) -> None:
        self._directory = layout / ".asked"

    def path(self, name: str) -> Path:
        """The file of a name, whose directory is made; also good for a lock beside it."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return self._directory / hashlib.sha256(name.encode()).hexdigest()

    def when(self, name: str) -> float | None:
        """Seconds since the epoch, or None when it was never asked."""
        with contextlib.suppress(OSError):
            return self.path(name).stat().st_mtime
        return None

    def note(self, name: str, now: float) -> None:
        """Note that it was asked at `now`, in seconds since the epoch. Raises OSError."""
        path = self.path(name)
        path.touch(mode=0o644)
        os.utime(path, (now, now))
