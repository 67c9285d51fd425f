# SPDX-License-Identifier: Apache-2.0
"""Files of a guest over SFTP, as the user that programs run as.

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

from waggle.domain.errors import FileRefused, GuestLost, WaggleError
from waggle.domain.filesystem import FileSlice, FileVersion, Listing
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.entries import shown
from waggle.infra.ssh.listing import list_directory
from waggle.infra.ssh.opening import Opener, close, not_regular, too_large
from waggle.infra.ssh.refusals import DISK_FULL, refusal
from waggle.infra.ssh.sftp import SftpSessions, is_answer
from waggle.infra.ssh.transfer import read_range, read_to_end, write_all
from waggle.infra.ssh.typed import open_file
from waggle.infra.tasks import finish

DEADLINE: Final = 60.0
_CLEAN_UP_SECONDS: Final = 2.0
_T = TypeVar("_T")


class Files:
    """SFTP over a pooled connection. `deadline` is seconds for one call."""

    def __init__(self, connection: SshConnection, *, deadline: float = DEADLINE) -> None:
        self._sessions = SftpSessions(connection)
        self._deadline = deadline
        self._opener = Opener()

    async def write(
        self, path: str, data: bytes, mode: int, *, unless_changed: FileVersion | None = None
    ) -> None:
        """See `domain.host.Guest.write_file`."""
        await self._call(path, lambda sftp: _write(sftp, path, data, mode, unless_changed))

    async def read_version(self, path: str, limit: int) -> tuple[bytes, FileVersion]:
        """See `domain.host.Guest.read_version`."""
        return await self._call(path, lambda sftp: self._read_version(sftp, path, limit))

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
        is_next_page = wanted.start > 0
        size, file = await self._opener.open(sftp, path, limit, is_next_page=is_next_page)
        try:
            if size:
                data = await read_range(file, wanted.start, min(wanted.stop, size))
                return FileSlice(data, size)
            data = await read_to_end(file, limit)
        finally:
            self._opener.close(file)
        if len(data) > limit:
            raise too_large(path, f"more than {limit}", limit)
        return FileSlice(data[wanted.start : wanted.stop], len(data))

    async def _read_version(
        self, sftp: asyncssh.SFTPClient, path: str, limit: int
    ) -> tuple[bytes, FileVersion]:
        version = _version(await sftp.stat(path.encode()))
        part = await self._read(sftp, path, range(limit), limit)
        return part.data, version


def _version(attributes: asyncssh.SFTPAttrs) -> FileVersion:
    return FileVersion(
        attributes.size or 0, attributes.mtime or 0, stat.S_IMODE(attributes.permissions or 0)
    )


async def _write(
    sftp: asyncssh.SFTPClient,
    path: str,
    data: bytes,
    mode: int,
    unless_changed: FileVersion | None,
) -> None:
    """Write beside the target, then rename over it: readers see the old file or the new one."""
    target = await _target(sftp, path)
    directory = posixpath.dirname(target)
    temporary = posixpath.join(directory, b".waggle-" + secrets.token_hex(8).encode())
    try:
        file = await open_file(sftp, temporary, "xb", mode)
        try:
            await write_all(file, data)
            attributes = asyncssh.SFTPAttrs(permissions=mode)
            # Both are on their way before either is answered; a server works in this order.
            await asyncio.gather(file.setstat(attributes), close(file))
        except BaseException:
            await finish(close(file))
            raise
        if unless_changed is not None and _version(await sftp.stat(target)) != unless_changed:
            raise FileRefused(
                f"{shown(path)} changed while it was edited.", hint="Read it and edit it again."
            )
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
    attributes, real = await asyncio.gather(
        sftp.stat(raw), sftp.realpath(raw), return_exceptions=True
    )
    if isinstance(attributes, asyncssh.SFTPNoSuchFile | asyncssh.SFTPNoSuchPath):
        if not posixpath.basename(raw):
            raise FileRefused(f"{shown(path)} names a directory.", hint="Name a file.")
        await sftp.makedirs(posixpath.dirname(raw), exist_ok=True)
        return raw
    if isinstance(attributes, BaseException):
        raise attributes
    kind = attributes.permissions or 0
    if stat.S_ISDIR(kind):
        raise FileRefused(f"{shown(path)} is a directory.", hint="Name a file in it.")
    if not stat.S_ISREG(kind):
        raise not_regular(path)
    if isinstance(real, BaseException):
        raise real
    return real


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
