# SPDX-License-Identifier: Apache-2.0
"""Finished files under `<cache>/lab`, each named by what it was made from.

`Store.ensure` makes a missing one in a directory of its own, moves it into place whole, and then
removes older ones of the same kind. `Store.run_directory` is a place for one run: what a killed
lab left there is removed by the next.
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
"""Of each kind, so that going back and forth between two branches builds nothing."""


def key_of(*parts: str | bytes) -> str:
    """A short digest of all parts, in which none can be taken for another. Pure."""
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
        """Where the directory of this kind and key is, or would be."""
        return self.directory / f"{kind}-{key}"

    def newest(self, kind: str) -> Path | None:
        """The one of this kind that was used last."""
        return next(iter(self._all(kind)), None)

    async def ensure(self, kind: str, key: str, make: Callable[[Path], Awaitable[None]]) -> Path:
        """The directory of this kind and key; `make` fills an empty one when it is missing.

        What fails or is cancelled leaves nothing. Raises what `make` raises, TimedOut when another
        process takes over 15 minutes to make it.
        """
        path = self.path(kind, key)
        self.directory.mkdir(parents=True, exist_ok=True)
        async with FileLock(self.directory / f".{kind}.lock", timeout=WAIT_SECONDS):
            for half in self.directory.glob(f".{kind}-*"):
                shutil.rmtree(half)  # of a lab that was killed
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
        """Those of a kind, the newest first."""
        found = [path for path in self.directory.glob(f"{kind}-*") if path.is_dir()]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    @contextlib.contextmanager
    def run_directory(self) -> Generator[Path]:
        """An empty directory, removed at the end; those of dead labs are removed before."""
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
