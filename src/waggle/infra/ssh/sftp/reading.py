# SPDX-License-Identifier: Apache-2.0
"""The read side of SFTP: open, list, show and read ahead files of a guest, and explain refusals.

Used by `Files`, `writing` and the local guest, which puts `ReadAhead` in front of `Files`. Only
regular files are opened, because opening a pipe would hang the guest's SFTP server. Round trips are
slow in an emulated guest, so all that can be avoided are. The next page of a file is read from the
guest while the client processes the last one. It serves only a call that continues where the last
one ended, within FRESH_SECONDS and with no other request to the guest in between, so no client sees
a file as it was before its own last call.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import asyncssh

from waggle.domain.errors import FileNotFound, FileRefused, TooLarge
from waggle.domain.files import MAX_LIST_ENTRIES, FileEntry, FileSlice, Listing
from waggle.infra.ssh.asyncssh_internals import SftpFile, open_file, scan

MAX_SHOWN: Final = 200
_LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999, the last second that `datetime` can hold."""


def shown(path: str) -> str:
    """Return a path fit for a message: one line, at most MAX_SHOWN characters."""
    return "".join(c if c.isprintable() else "?" for c in path[:MAX_SHOWN])


def is_usable_name(name: bytes | str) -> bool:
    """Whether a directory entry's name is valid, and neither `.` nor `..`."""
    raw = _raw(name)
    return bool(raw) and raw not in (b".", b"..") and b"/" not in raw and b"\0" not in raw


def entry(name: bytes | str, attributes: asyncssh.SFTPAttrs) -> FileEntry:
    """Make a directory entry; bytes of the name that are not UTF-8 are escaped, as in Python."""
    kind = attributes.permissions or 0
    seconds = min(max(attributes.mtime or 0, 0), _LAST_SECOND)
    return FileEntry(
        name=_raw(name).decode("utf-8", "backslashreplace"),
        size=max(attributes.size or 0, 0),
        is_dir=stat.S_ISDIR(kind),
        is_link=stat.S_ISLNK(kind),
        mode=stat.S_IMODE(kind),
        modified=datetime.fromtimestamp(seconds, UTC),
    )


def _raw(name: bytes | str) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


_CLOSE_SECONDS = 2.0


class Opener:
    """The opener of files, which it closes in the background."""

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()

    async def open(
        self, sftp: asyncssh.SFTPClient, path: str, limit: int, *, is_next_page: bool
    ) -> tuple[int, SftpFile]:
        """Return a file's size and the file. Raises FileRefused, TooLarge over `limit`, SFTPError.

        For the next page of a file, the type is not checked before it is opened, since it was a
        regular file just before: a guest that puts a pipe there makes its own client wait.
        """
        raw = path.encode()
        if not is_next_page:
            return await _size(sftp, path, limit), await open_file(sftp, raw, "rb")
        opening = asyncio.ensure_future(open_file(sftp, raw, "rb"))
        try:
            return await _size(sftp, path, limit), await opening
        except BaseException:
            opening.add_done_callback(self._opened_in_vain)
            raise

    def _opened_in_vain(self, opening: asyncio.Future[SftpFile]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.close(opening.result())

    def close(self, file: SftpFile) -> None:
        """Close a file that was only read; one that cannot be closed ends with its session."""
        task = asyncio.create_task(close(file))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.add_done_callback(ignore_failure)


async def close(file: SftpFile) -> None:
    """Close within a bounded time, since a server that hangs loses its session anyway."""
    async with asyncio.timeout(_CLOSE_SECONDS):
        await file.close()


async def _size(sftp: asyncssh.SFTPClient, path: str, limit: int) -> int:
    """Return the size that the guest claims for a regular file. Raises FileRefused, TooLarge."""
    attributes = await sftp.stat(path.encode())
    kind = attributes.permissions or 0
    if stat.S_ISDIR(kind):
        raise FileRefused(f"{shown(path)} is a directory.", hint="Use list_files for it.")
    if not stat.S_ISREG(kind):
        raise not_regular(path)
    size = attributes.size or 0
    if size > limit:
        raise too_large(path, f"{size}", limit)
    return size


def not_regular(path: str) -> FileRefused:
    """Return the error for a pipe, device or socket."""
    return FileRefused(
        f"{shown(path)} is not a regular file.", hint="Use execute for devices and pipes."
    )


def too_large(path: str, size: str, limit: int) -> TooLarge:
    """Return the error for a file longer than a call may carry; both numbers are bytes."""
    return TooLarge(
        f"{shown(path)} has {size} bytes; the limit is {limit}.",
        hint="Read a part of it with execute, for example with head or split.",
    )


_SKIPPED_ENTRIES: Final = 1_000


async def list_directory(sftp: asyncssh.SFTPClient, path: str) -> Listing:
    """List at most MAX_LIST_ENTRIES entries. Raises FileRefused if not a directory, SFTPError."""
    entries: list[FileEntry] = []
    skipped = 0
    try:
        async with aclosing(scan(sftp, path.encode())) as items:
            async for item in items:
                if len(entries) >= MAX_LIST_ENTRIES or skipped >= _SKIPPED_ENTRIES:
                    break
                if is_usable_name(item.filename):
                    entries.append(entry(item.filename, item.attrs))
                else:
                    skipped += 1
            else:
                return _listing(path, entries, truncated=False)
    except (asyncssh.SFTPFailure, asyncssh.SFTPNoSuchFile):
        attributes = await sftp.stat(path.encode())
        if stat.S_ISDIR(attributes.permissions or 0):
            raise
        raise FileRefused(
            f"{shown(path)} is not a directory.", hint="Use read_file for a file."
        ) from None
    return _listing(path, entries, truncated=True)


def _listing(path: str, entries: list[FileEntry], *, truncated: bool) -> Listing:
    return Listing(path, tuple(sorted(entries, key=lambda item: item.name)), truncated)


FRESH_SECONDS: Final = 1.0


class Read(Protocol):
    """Reads a part of a file; see `domain.host.Guest.read_file`."""

    async def __call__(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """Read at most `length` bytes from `offset`."""
        ...


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The known content of a file from `start` on: `tail`, then the result of `coming`."""

    path: str
    start: int
    tail: bytes
    coming: asyncio.Task[FileSlice]
    began: float

    @property
    def stop(self) -> int:
        """The offset at which the result of `coming` begins."""
        return self.start + len(self.tail)


class ReadAhead:
    """A read-ahead of one page for one reader. Holds two pages for at most FRESH_SECONDS."""

    def __init__(self, read: Read, clock: Callable[[], float] | None = None) -> None:
        self._read = read
        self._clock = clock or asyncio.get_running_loop().time
        self._ahead: _Ahead | None = None

    async def read(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """Read a part, perhaps from the page read ahead; less than `length` then means no end.

        The next page is read ahead only after a client has asked for a second one.
        """
        part = await self._take(path, offset, length)
        if part is None:
            part = await self._read(path, offset=offset, length=length, limit=limit)
        stop = offset + len(part.data)
        if 0 < offset < stop < part.size:
            coming = self._read(path, offset=stop, length=length, limit=limit)
            self._begin(path, offset, part.data, asyncio.ensure_future(coming))
        return part

    def forget(self) -> None:
        """Forget the page, since files may change now. A read under way is bounded, and ends."""
        self._ahead = None

    def _begin(self, path: str, start: int, tail: bytes, coming: asyncio.Task[FileSlice]) -> None:
        ahead = self._ahead = _Ahead(path, start, tail, coming, self._clock())
        coming.add_done_callback(ignore_failure)
        asyncio.get_running_loop().call_later(FRESH_SECONDS, self._expire, ahead)

    def _expire(self, ahead: _Ahead) -> None:
        if self._ahead is ahead:
            self._ahead = None

    async def _take(self, path: str, offset: int, length: int) -> FileSlice | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.path != path or not ahead.start < offset <= ahead.stop:
            return None
        await asyncio.wait({ahead.coming})
        if self._clock() - ahead.began > FRESH_SECONDS or ahead.coming.exception() is not None:
            return None
        more = ahead.coming.result()
        data = ahead.tail[offset - ahead.start :] + more.data
        return FileSlice(data[:length], more.size)


def ignore_failure(task: asyncio.Task[Any]) -> None:
    """Retrieve a failure, so that the loop does not report it when no caller is left."""
    if not task.cancelled():
        task.exception()


DISK_FULL: Final = "The environment's disk is too full for it."
_MAX_REASON: Final = 100


def refusal(path: str, error: asyncssh.SFTPError) -> FileNotFound | FileRefused:
    """Return the error for a request on `path` that the guest's file server refused."""
    if isinstance(error, asyncssh.SFTPNoSuchFile | asyncssh.SFTPNoSuchPath):
        return FileNotFound(f"There is no {shown(path)} in the environment.")
    if isinstance(error, asyncssh.SFTPPermissionDenied):
        return FileRefused(
            f"The environment's user may not do that with {shown(path)}.",
            hint="Use a path under /home/sandbox or /tmp, or change it in a shell as user 'root'.",
        )
    reason = "".join(c if c.isprintable() else "?" for c in error.reason[:_MAX_REASON])
    return FileRefused(
        f"The guest refused {shown(path)}: {reason or 'no reason given'}.",
        hint="A name may be too long, or a part of the path may not be a directory.",
    )
