# SPDX-License-Identifier: Apache-2.0
"""Room on the server's disks, errors for full or read-only disks, and the usage of processes.

The composition root builds a `DiskRoom` for the data directory and one for the image cache; code
that is about to use much of a disk checks it first. The errors name no path, so clients may see
them. `process_usage` and `allocated_bytes` measure VMMs and their disks as the kernel counts them;
`disk_of` returns the disk whose rate a control group can limit.
Knows nothing of environments and images.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import structlog

from waggle.domain.errors import DiskFull, ImageUnavailable
from waggle.domain.machine import VmmProcess
from waggle.infra.shared.confined import identify

log = structlog.get_logger(__name__)
LOOK_SECONDS: Final = 1.0
"""Between two checks of the free space."""
_WHY: Final[Mapping[int, str]] = {
    errno.ENOSPC: "is full: there is no room in {}",
    errno.EDQUOT: "is full: the quota of its user is used up in {}",
    errno.EFBIG: "takes no more: a file in {} would be larger than it may be",
    errno.EROFS: "takes no more: {} can only be read now",
}
"""Texts for the system's errors of writes that waggle cannot make fit."""
_OPERATOR: Final[Mapping[int, str]] = {
    errno.EFBIG: "Have the operator raise the limit of file sizes (ulimit -f); then try again.",
    errno.EROFS: "Have the operator look why, and mount it for writing; then try again.",
}


def free_bytes(path: Path) -> int:
    """Return the bytes that users except root may still write at `path`. Raises OSError.

    `path` need not exist yet.
    """
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize


def existing(path: Path) -> Path:
    """Return the path, or the nearest parent directory that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def is_full(error: OSError) -> bool:
    """Return whether the disk takes no more: full, read-only, over a quota or file size limit."""
    return error.errno in _WHY


def full(error: OSError, name: str, detail: str = "") -> DiskFull:
    """Return the error for a write that did not fit; `name` is the place in a client's words. Pure.

    An error that is not `is_full` counts as lack of room. `detail` is appended to the message.
    """
    number = error.errno if error.errno in _WHY else errno.ENOSPC
    message = f"The server's disk {_WHY[number].format(name)}{detail}."
    return DiskFull(message, hint=_OPERATOR.get(number))


class DiskRoom:
    """The room on the disk of `path`, which errors call `name`. `reserve` is in bytes."""

    def __init__(
        self,
        name: str,
        path: Path,
        reserve: int,
        *,
        free: Callable[[Path], int] = free_bytes,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """`free` returns the bytes that can still be written below a path."""
        self._name = name
        self._path = path
        self._reserve = reserve
        self._free = free
        self._sleep = sleep

    def shortage(self) -> DiskFull | None:
        """Return why no work that needs much of the disk may begin now, or None.

        A disk whose free space is unknown is not short: a write to it then fails for its own cause.
        """
        free = self._free_now()
        if free is None or free >= self._reserve:
            return None
        return DiskFull(
            f"The server's disk is too full: {self._name} has {free >> 20} MiB free, and the "
            f"server keeps {self._reserve >> 20} MiB in reserve."
        )

    def require(self) -> None:
        """Raise DiskFull below the reserve."""
        if (shortage := self.shortage()) is not None:
            raise shortage

    @contextlib.contextmanager
    def errors(self) -> Generator[None]:
        """Raise DiskFull for an OSError in the block that means a full disk."""
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            raise self.full(error) from error

    def full(self, error: OSError | None = None) -> DiskFull:
        """Return the error for a write that did not fit; `error` is the system's, if known."""
        free = self._free_now()
        left = "" if free is None else f", which has {free >> 20} MiB free"
        if error is None or error.errno == errno.ENOSPC:
            return full(OSError(errno.ENOSPC, ""), self._name, left)
        return full(error, self._name)

    def refused(self, number: int) -> DiskFull:
        """Return the error for a write that the system refused with any error number."""
        if number in _WHY:
            return self.full(OSError(number, ""))
        return DiskFull(
            f"The server's disk fails: {self._name} does not take what is written to it "
            f"({os.strerror(number)}).",
            hint="Have the operator look after the disk (dmesg, smartctl).",
        )

    async def until_room(self, at_least: float = LOOK_SECONDS) -> None:
        """Wait for `at_least` seconds, and until the reserve is free."""
        await self._sleep(at_least)
        while self.shortage() is not None:
            await self._sleep(LOOK_SECONDS)

    async def watch(self) -> None:
        """Log, until cancelled, when room becomes short and when it is enough again."""
        was_short = False
        while True:
            shortage = self.shortage()
            if shortage is not None and not was_short:
                log.error("disk_short", path=str(self._path), error=shortage.message)
            elif shortage is None and was_short:
                log.info("disk_has_room", path=str(self._path))
            was_short = shortage is not None
            await self._sleep(LOOK_SECONDS)

    def _free_now(self) -> int | None:
        try:
            return self._free(self._path)
        except OSError:
            return None


_DEVICES = Path("/sys/dev/block")
_BLOCK = 512
"""Bytes in a unit of `st_blocks`, whatever the file system's block size; see stat(2)."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Processor time since the start, and bytes resident now."""

    cpu_seconds: float
    memory_bytes: int


def process_usage(identity: VmmProcess) -> ProcessUsage | None:
    """Return the usage of a process; None when it has ended, even if its pid was reused."""
    try:
        text = Path(f"/proc/{identity.pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if identify(identity.pid) != identity:
        return None
    return parse_stat(text, ticks=os.sysconf("SC_CLK_TCK"), page=os.sysconf("SC_PAGE_SIZE"))


def parse_stat(text: str, *, ticks: int, page: int) -> ProcessUsage:
    """Parse a line of /proc/PID/stat, see proc(5). Its name field may hold anything. Pure."""
    fields = text[text.rindex(")") + 2 :].split()
    user, system, resident = int(fields[11]), int(fields[12]), int(fields[21])
    return ProcessUsage((user + system) / ticks, resident * page)


def allocated_in(*directories: Path) -> int:
    """Return the bytes allocated to the files directly in directories, of those that exist.

    A file with several names there counts once.
    """
    sizes: dict[tuple[int, int], int] = {}
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            for path in directory.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat(follow_symlinks=False)
                    sizes[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK
    return sum(sizes.values())


def allocated_bytes(path: Path) -> int:
    """Return the bytes allocated to a file, without holes; 0 when it is gone."""
    try:
        return path.stat(follow_symlinks=False).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0


def disk_of(path: Path) -> str | None:
    """Return MAJOR:MINOR of the whole disk that holds a file; None without a block device."""
    number = path.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    device = _DEVICES / name
    if not (device / "partition").exists():
        return name if device.exists() else None
    try:
        return (device.resolve().parent / "dev").read_text("utf-8", "replace").strip() or None
    except OSError:
        return None


@contextlib.contextmanager
def storage_errors(what: str, where: str = "the image cache") -> Generator[None]:
    """Turn an OSError of the block into ImageUnavailable; `what` is the message of the failure.

    A full disk becomes DiskFull, which names `where` that is.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            found = full(error, where)
            raise DiskFull(f"{what}. {found.message}", hint=found.hint) from error
        raise ImageUnavailable(
            f"{what}: {error.strerror or 'the system refused'}.",
            hint="Check the free space and the permissions.",
        ) from error
