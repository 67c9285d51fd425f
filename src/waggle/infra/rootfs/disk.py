# SPDX-License-Identifier: Apache-2.0
"""Root disks: one read-only EROFS file per image digest, made once and shared by all machines.

Called by `service.local` and the CLI, which pass in how an image becomes a tree
(`oci.layers.flatten`), so this module knows no layers. A disk is written in a private directory
under a lock per digest, in a thread that ends soon when its caller is cancelled, then flushed and
renamed: a file with its final name is complete. The files are 0444 and never changed; removing one
that a machine has open does not disturb the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Generic, Protocol, TypeVar

from waggle.domain.errors import InvalidArgument, TimedOut
from waggle.infra.rootfs.erofs import Advance, TreeNode, write_erofs
from waggle.infra.shared.files import FileLock
from waggle.infra.shared.work import place, sweep, workspace


class _Stopped(Exception):
    """The caller was cancelled; ends the worker thread."""


async def _in_thread(work: Callable[[Advance], Path], progress: Advance) -> Path:
    """Run `work` in a thread; on cancellation its next step ends it, and it has cleaned up."""
    stop = Event()

    def advance(fraction: float, text: str) -> None:
        if stop.is_set():
            raise _Stopped
        progress(fraction, text)

    task = asyncio.ensure_future(asyncio.to_thread(work, advance))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller no longer needs it
        raise


_FORMAT = 2
"""Part of the file name, because a changed format must not meet old files."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LOCK_SECONDS = 1800.0
_READ_SHARE = 0.8


class Image(Protocol):
    """The source of a disk; this module needs only the digest."""

    @property
    def digest(self) -> str:
        """The manifest's digest, `sha256:` and 64 hex digits."""
        ...


class Flat(Protocol):
    """A merged tree with the files that hold its contents."""

    @property
    def root(self) -> TreeNode:
        """The root directory."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """The files that `TreeNode.content` refers to by index."""
        ...


ImageT = TypeVar("ImageT", bound=Image)


@dataclass(frozen=True, slots=True)
class Disk:
    """A finished disk: the image's digest, bytes, and its last use in epoch seconds."""

    digest: str
    size: int
    used: float


def ignore_progress(fraction: float, text: str) -> None:
    """Do nothing."""


class RootDisks(Generic[ImageT]):
    """The cache of root disks in a directory. Safe for several processes."""

    def __init__(self, directory: Path, flatten: Callable[[ImageT, Path, Advance], Flat]) -> None:
        """`flatten(image, workspace, progress)` makes the tree; it may raise and block."""
        self.directory = directory
        self._flatten = flatten

    def path(self, digest: str) -> Path:
        """Return the path of an image's disk, whether or not it exists. Raises InvalidArgument."""
        match = _DIGEST.fullmatch(digest)
        if not match:
            raise InvalidArgument(f"{digest!r} is not a sha256 digest.")
        return self.directory / f"{match[1]}.v{_FORMAT}.erofs"

    def find(self, digest: str) -> Path | None:
        """Return the disk if it exists, and record its use."""
        path = self.path(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except PermissionError:
            pass  # another user's cache: usable, but its last use cannot be recorded
        return path

    async def ensure(self, image: ImageT, progress: Advance = ignore_progress) -> Path:
        """Return the image's disk, and make it if it does not exist.

        Of concurrent calls, also in other processes, one makes it and the others wait (at most 30
        minutes, then TimedOut). `progress` gets a fraction and a text, from a worker thread.
        Cancelling stops the work at its next step. Raises the errors of `flatten` and OSError (a
        full disk). Neither cancelling nor an error leaves anything behind.
        """
        if found := self.find(image.digest):
            return found
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        async with self._lock(image.digest):
            if found := self.find(image.digest):
                return found
            return await _in_thread(partial(self._make, image), progress)

    def _lock(self, digest: str, timeout: float = _LOCK_SECONDS) -> FileLock:
        name = self.path(digest).name
        return FileLock(self.directory / f".{name}.lock", timeout=timeout)

    def _make(self, image: ImageT, progress: Advance) -> Path:
        target = self.path(image.digest)
        sweep(self.directory)
        with workspace(self.directory) as work:
            made = work / "disk"
            flat = self._flatten(image, work, lambda f, t: progress(f * _READ_SHARE, t))
            uuid = bytes.fromhex(image.digest.removeprefix("sha256:")[:32])

            def written(fraction: float, text: str) -> None:
                progress(_READ_SHARE + fraction * (1 - _READ_SHARE), text)

            write_erofs(flat.root, flat.files, made, uuid, written)
            made.chmod(0o444)
            place(made, target)
        progress(1.0, "the root disk is ready")
        return target

    def remove(self, digest: str) -> bool:
        """Remove one disk; return whether it existed. Idempotent. Raises TimedOut after 10 s."""
        if not self.directory.is_dir():
            return False
        path = self.path(digest)
        with self._lock(digest, timeout=10):
            existed = path.exists()
            path.unlink(missing_ok=True)
        return existed

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Yield the finished files, also those of older formats, with their images' digests."""
        for path in sorted(self.directory.glob("*.erofs")):
            digest = f"sha256:{path.name.split('.', 1)[0]}"
            if _DIGEST.fullmatch(digest):
                yield path, digest

    def made(self) -> list[Disk]:
        """Return the finished disks; none when the directory cannot be read."""
        disks: list[Disk] = []
        for path, digest in self._files():
            if self.path(digest) == path:
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    disks.append(Disk(digest, status.st_size, status.st_mtime))
        return disks

    def prune(self, older_than: float, in_use: Callable[[str], bool]) -> list[str]:
        """Remove disks last used before `older_than` (epoch seconds); return their digests.

        A disk stays while `in_use` returns True for its digest. Disks of older formats and the
        remains of killed writers are removed, too. Skips a disk that is being made.
        """
        sweep(self.directory)
        removed: list[str] = []
        for path, digest in self._files():
            current = self.path(digest) == path
            if current and (in_use(digest) or path.stat().st_mtime >= older_than):
                continue
            with contextlib.suppress(TimedOut), self._lock(digest, timeout=0):
                path.unlink(missing_ok=True)
                removed.append(digest)
        return removed
