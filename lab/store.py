# SPDX-License-Identifier: Apache-2.0
"""Finished files under `<cache>/lab`, named by their ingredients.

`Store.ensure` makes a missing directory separately, moves it into place when it is whole, and then
removes older ones of the same kind. `Store.run_directory` is a place for one run: the next run
removes the remains of a killed one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

from waggle.infra.shared.files import FileLock

WAIT_SECONDS = 900.0
KEPT = 2
"""Number kept of each kind, so that switching between two branches builds nothing."""


def key_of(*parts: str | bytes) -> str:
    """Return a short digest of all parts; different lists of parts give different input. Pure."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


class Store:
    """The lab's cache; safe for several processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, kind: str, key: str) -> Path:
        """Return the path of this kind and key, whether it exists or not.

        Keys may have hyphens, so no kind may be another's name with a hyphen and more behind it.
        """
        return self.directory / f"{kind}-{key}"

    def newest(self, kind: str) -> Path | None:
        """Return the last used directory of this kind, if any."""
        return next(iter(self._all(kind)), None)

    async def ensure(self, kind: str, key: str, make: Callable[[Path], Awaitable[None]]) -> Path:
        """Return the directory of this kind and key; `make` fills an empty one if it is missing.

        A failure or cancellation leaves nothing. Raises the errors of `make`, and TimedOut if
        another process takes over 15 minutes to make it.
        """
        path = self.path(kind, key)
        self.directory.mkdir(parents=True, exist_ok=True)
        async with FileLock(self.directory / f".{kind}.lock", timeout=WAIT_SECONDS):
            for half in self.directory.glob(f".{kind}-*"):
                shutil.rmtree(half)  # left by a killed lab
            if not path.is_dir():
                with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=self.directory) as name:
                    whole = Path(name, "whole")
                    whole.mkdir()
                    await make(whole)
                    whole.rename(path)
            os.utime(path)
            for old in self._all(kind)[KEPT:]:
                shutil.rmtree(old)
        return path

    def _all(self, kind: str) -> list[Path]:
        """List the directories of a kind, newest first."""
        found = [path for path in self.directory.glob(f"{kind}-*") if path.is_dir()]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    @contextlib.contextmanager
    def run_directory(self) -> Generator[Path]:
        """Make an empty directory, removed at the end. First removes those of killed labs."""
        runs = self.directory / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        for lock in runs.glob("*.lock"):
            with contextlib.suppress(OSError), _locked(lock) as is_ours:
                if is_ours:
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()
        directory = Path(tempfile.mkdtemp(dir=runs))
        lock = directory.with_name(f"{directory.name}.lock")
        with _locked(lock):
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[bool]:
    lock = FileLock(path)
    try:
        yield lock.try_acquire()
    finally:
        lock.release()
