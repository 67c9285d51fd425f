# SPDX-License-Identifier: Apache-2.0
"""Whether a disk of the server's has room: its reserve, and `disk_full` in words of one place.

Built by the composition root, one for the data directory and one for the image cache, and asked by
whatever is about to take much of a disk. One of the modules under `waggle.infra` that its siblings
may share. Knows a name, a path and a number of bytes; nothing of environments and images.

What a process and a file take of this machine, as its kernel counts it.

Used for the processes and disks of machines. One of the modules under `waggle.infra` that its
siblings may share.

A full or read-only disk as an error that can be shown, also to clients: it names no path.

Used by `load`, `export`, `registry.pull` and the CLI.
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

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import DiskFull, ImageUnavailable
from waggle.infra.shared.confined import identify

log = structlog.get_logger(__name__)
LOOK_SECONDS: Final = 1.0
"""Between two looks at the free space."""
_WHY: Final[Mapping[int, str]] = {
    errno.ENOSPC: "is full: there is no room in {}",
    errno.EDQUOT: "is full: the quota of its user is used up in {}",
    errno.EFBIG: "takes no more: a file in {} would be larger than it may be",
    errno.EROFS: "takes no more: {} can only be read now",
}
"""What the system says of a write that nothing of ours can make fit."""
_OPERATOR: Final[Mapping[int, str]] = {
    errno.EFBIG: "Have the operator raise the limit of file sizes (ulimit -f); then try again.",
    errno.EROFS: "Have the operator look why, and mount it for writing; then try again.",
}


def free_bytes(path: Path) -> int:
    """Bytes that others than root may still write where `path` is or will be. Raises OSError."""
    there = os.statvfs(next(each for each in (path, *path.parents) if each.exists()))
    return there.f_bavail * there.f_frsize


def is_full(error: OSError) -> bool:
    """Whether it says that the disk takes no more: it is full, or a quota, or can only be read."""
    return error.errno in _WHY


def full(error: OSError, name: str, detail: str = "") -> DiskFull:
    """The one error for a write that did not fit; `name` is the place in words for anybody. Pure.

    What is none of `is_full` counts as want of room. `detail` follows the message.
    """
    number = error.errno if error.errno in _WHY else errno.ENOSPC
    message = f"The server's disk {_WHY[number].format(name)}{detail}."
    return DiskFull(message, hint=_OPERATOR.get(number))


class DiskRoom:
    """The room where `path` is, which errors call `name`. `reserve` is bytes."""

    def __init__(
        self,
        name: str,
        path: Path,
        reserve: int,
        *,
        free: Callable[[Path], int] = free_bytes,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """`free` is the bytes that can still be written below a path."""
        self._name = name
        self._path = path
        self._reserve = reserve
        self._free = free
        self._sleep = sleep

    def shortage(self) -> DiskFull | None:
        """Why nothing that takes much of the disk may begin now, or None.

        A disk that cannot be asked is not short: what is tried then fails for its own reason.
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
        """Raise DiskFull for an OSError in the block that says that the disk is full."""
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            raise self.full(error) from error

    def full(self, error: OSError | None = None) -> DiskFull:
        """The error for a write that did not fit, of which `error` tells more."""
        free = self._free_now()
        left = "" if free is None else f", which has {free >> 20} MiB free"
        if error is None or error.errno == errno.ENOSPC:
            return full(OSError(errno.ENOSPC, ""), self._name, left)
        return full(error, self._name)

    def refused(self, number: int) -> DiskFull:
        """The error for a write that the system refused with this number, whatever it is."""
        if number in _WHY:
            return self.full(OSError(number, ""))
        return DiskFull(
            f"The server's disk fails: {self._name} does not take what is written to it "
            f"({os.strerror(number)}).",
            hint="Have the operator look after the disk (dmesg, smartctl).",
        )

    async def until_room(self, at_least: float = LOOK_SECONDS) -> None:
        """Return when there is more free than the reserve, after so many seconds `at_least`."""
        await self._sleep(at_least)
        while self.shortage() is not None:
            await self._sleep(LOOK_SECONDS)

    async def watch(self) -> None:
        """Log, for ever, when the room becomes short and when there is some again."""
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


_BLOCK = 512
"""Bytes in a unit of `st_blocks`, whatever the file system's own block is; see stat(2)."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Processor time since the start, and bytes resident now."""

    cpu_seconds: float
    memory_bytes: int


def process_usage(identity: MachineIdentity) -> ProcessUsage | None:
    """What the process takes; None when it has ended, even if its pid was given out again."""
    try:
        text = Path(f"/proc/{identity.pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if identify(identity.pid) != identity:
        return None
    return parse_stat(text, ticks=os.sysconf("SC_CLK_TCK"), page=os.sysconf("SC_PAGE_SIZE"))


def parse_stat(text: str, *, ticks: int, page: int) -> ProcessUsage:
    """Read a line of /proc/PID/stat, see proc(5). The name in it may hold anything. Pure."""
    fields = text[text.rindex(")") + 2 :].split()
    user, system, resident = int(fields[11]), int(fields[12]), int(fields[21])
    return ProcessUsage((user + system) / ticks, resident * page)


def allocated_in(directory: Path) -> int:
    """What the files in a directory take, not those further below; 0 when it is gone."""
    try:
        return sum(allocated_bytes(path) for path in directory.iterdir())
    except FileNotFoundError:
        return 0


def allocated_bytes(path: Path) -> int:
    """What a file takes of its file system, holes left out; 0 when it is gone."""
    try:
        return path.stat(follow_symlinks=False).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def storage_errors(what: str, where: str = "the image cache") -> Generator[None]:
    """Turn an OSError of the block into ImageUnavailable; `what` is what could not be done.

    A full disk is DiskFull, which names `where` that is.
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
