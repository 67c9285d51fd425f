# SPDX-License-Identifier: Apache-2.0
"""A disk of a few MiB that a test fills and empties: a tmpfs, so that ENOSPC is the kernel's own.

Only root can mount one; without root, tests that need it are skipped with a message.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root can mount a small disk"
)


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A disk mounted at `path`."""

    path: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Fill the disk except `leave` bytes."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        if leave:
            os.truncate(self._ballast, self._ballast.stat().st_size - leave)

    def free(self) -> None:
        """Free the space that `fill` took."""
        self._ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def read_only(self) -> Generator[None]:
        """Make the disk read-only for the block. No file may be open for writing before."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True)


@contextlib.contextmanager
def small_disk(path: Path, mib: int) -> Generator[SmallDisk]:
    """Make `path`, mount a disk there, and unmount it at the end, even if it was moved."""
    path.mkdir(exist_ok=True, parents=True)
    options = f"size={mib}m,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    held = os.open(path, os.O_PATH)
    try:
        yield SmallDisk(path)
    finally:
        where = str(Path(f"/proc/self/fd/{held}").readlink())
        os.close(held)
        subprocess.run(["umount", "-l", where], check=True)
