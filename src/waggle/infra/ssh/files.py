# SPDX-License-Identifier: Apache-2.0
"""Files of a guest over SFTP, as the sandbox user.

The SFTP server is the guest's: names, sizes, types and attributes are claims, checked or bounded
here, and never used as a path of the host.
"""

from __future__ import annotations

import asyncio
import posixpath
import secrets
import stat
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncssh

from waggle.domain.errors import FileRefused, GuestLost, TooLarge, WaggleError
from waggle.domain.filesystem import FileSlice, Listing
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.entries import shown
from waggle.infra.ssh.listing import list_directory
from waggle.infra.ssh.refusals import DISK_FULL, refusal
from waggle.infra.ssh.sftp import SftpSessions, is_answer
from waggle.infra.ssh.transfer import read_range, read_to_end, write_all
from waggle.infra.ssh.typed import SftpFile, open_file
from waggle.infra.tasks import finish

DEADLINE: Final = 60.0
_CLEAN_UP_SECONDS: Final = 2.0
_T = TypeVar("_T")


class Files:
    """SFTP over a pooled connection. `deadline` is seconds for one call."""

    def __init__(self, connection: SshConnection, *, deadline: float = DEADLINE) -> None:
        self._sessions = SftpSessions(connection)
        self._deadline = deadline
        self._closing: set[asyncio.Task[None]] = set()

    async def write(self, path: str, data: bytes, mode: int) -> None:
        """See `domain.host.Guest.write_file`."""
        await self._call(path, lambda sftp: _write(sftp, path, data, mode))

    async def read(
        self, path: str, *, offset: int = 0, length: int | None = None, limit: int
    ) -> FileSlice:
        """See `domain.host.Guest.read_file`; without `length`, to the end."""
        wanted = range(offset, offset + (limit if length is None else length))
        return await self._call(path, lambda sftp: self._read(sftp, path, wanted, limit))

    async def list(self, path: str) -> Listing:
        """See `domain.host.Guest.list_files`."""
        return await self._call(path, lambda sftp: list_directory(sftp, path))

    async def _call(self, path: str, work: Callable[[asyncssh.SFTPClient], Awaitable[_T]]) -> _T:
        """Do the work, once more on a new session if the old one turns out to be dead.

        All work here is safe to repeat.
        """
        cause = "it does not stay up"
        try:
            async with asyncio.timeout(self._deadline):
                for _ in range(2):
                    try:
                        async with self._sessions.borrow() as sftp:
                            return await work(sftp)
                    except WaggleError:
                        raise
                    except asyncssh.SFTPError as error:
                        if is_answer(error):
                            raise refusal(path, error) from error
                        cause = type(error).__name__
                    except (asyncssh.Error, OSError) as error:
                        cause = type(error).__name__
        except TimeoutError:
            cause = f"no answer within {self._deadline:g} s"
        raise GuestLost(f"The guest's file server failed: {cause}.")

    async def _read(
        self, sftp: asyncssh.SFTPClient, path: str, wanted: range, limit: int
    ) -> FileSlice:
        size = await _size(sftp, path, limit)
        file = await open_file(sftp, path.encode(), "rb")
        try:
            if size:
                data = await read_range(file, wanted.start, min(wanted.stop, size))
                return FileSlice(data, size)
            data = await read_to_end(file, limit)
        finally:
            self._close_behind(file)
        if len(data) > limit:
            raise _too_large(path, f"more than {limit}", limit)
        return FileSlice(data[wanted.start : wanted.stop], len(data))

    def _close_behind(self, file: SftpFile) -> None:
        """Close what was only read without waiting for the answer, which costs a round trip."""
        task = asyncio.create_task(_close(file))
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: a file that cannot be closed goes with its session


async def _write(sftp: asyncssh.SFTPClient, path: str, data: bytes, mode: int) -> None:
    """Write beside the target, then rename over it: readers see the old file or the new one."""
    target = await _target(sftp, path)
    directory = posixpath.dirname(target)
    temporary = posixpath.join(directory, b".waggle-" + secrets.token_hex(8).encode())
    try:
        file = await open_file(sftp, temporary, "xb", mode)
        try:
            await write_all(file, data)
            await file.setstat(asyncssh.SFTPAttrs(permissions=mode))
        finally:
            await finish(_close(file))
        await sftp.posix_rename(temporary, target)
    except BaseException as error:
        await finish(_remove(sftp, temporary))
        if isinstance(error, asyncssh.SFTPFailure) and await _lacks_room(
            sftp, directory, len(data)
        ):
            raise FileRefused(DISK_FULL, hint="Delete something first.") from error
        raise


async def _target(sftp: asyncssh.SFTPClient, path: str) -> bytes:
    """The path to write, links followed, its parents made. Raises FileRefused."""
    raw = path.encode()
    try:
        attributes = await sftp.stat(raw)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        if not posixpath.basename(raw):
            raise FileRefused(f"{shown(path)} names a directory.", hint="Name a file.") from None
        await sftp.makedirs(posixpath.dirname(raw), exist_ok=True)
        return raw
    kind = attributes.permissions or 0
    if stat.S_ISDIR(kind):
        raise FileRefused(f"{shown(path)} is a directory.", hint="Name a file in it.")
    if not stat.S_ISREG(kind):
        raise _not_regular(path)
    return await sftp.realpath(raw)


async def _close(file: SftpFile) -> None:
    """Close, for a bounded time: a server that hangs loses its session anyway."""
    async with asyncio.timeout(_CLEAN_UP_SECONDS):
        await file.close()


async def _remove(sftp: asyncssh.SFTPClient, path: bytes) -> None:
    try:
        async with asyncio.timeout(_CLEAN_UP_SECONDS):
            await sftp.remove(path)
    except (TimeoutError, OSError, asyncssh.Error):
        return


async def _lacks_room(sftp: asyncssh.SFTPClient, directory: bytes, size: int) -> bool:
    """Whether the disk has no room for a file of `size` bytes, or for any file."""
    try:
        space = await sftp.statvfs(directory)
    except asyncssh.SFTPError:
        return False
    return space.bavail * space.frsize <= size or (space.files > 0 and space.favail == 0)


async def _size(sftp: asyncssh.SFTPClient, path: str, limit: int) -> int:
    """What the guest says that a regular file has. Raises FileRefused or TooLarge."""
    attributes = await sftp.stat(path.encode())
    kind = attributes.permissions or 0
    if stat.S_ISDIR(kind):
        raise FileRefused(f"{shown(path)} is a directory.", hint="Use list_files for it.")
    if not stat.S_ISREG(kind):
        raise _not_regular(path)
    size = attributes.size or 0
    if size > limit:
        raise _too_large(path, f"{size}", limit)
    return size


def _not_regular(path: str) -> FileRefused:
    return FileRefused(
        f"{shown(path)} is not a regular file.", hint="Use execute for devices and pipes."
    )


def _too_large(path: str, size: str, limit: int) -> TooLarge:
    return TooLarge(
        f"{shown(path)} has {size} bytes; the limit is {limit}.",
        hint="Read a part of it with execute, for example with head or split.",
    )
