# SPDX-License-Identifier: Apache-2.0
"""Open a guest's regular file for reading, and only that; close it without waiting.

Used by `files`. Opening a pipe would hang the guest's SFTP server, so the type is asked for first.
Round trips are what an emulated guest makes one wait for: none is made that can be avoided.
"""

from __future__ import annotations

import asyncio
import stat

import asyncssh

from waggle.domain.errors import FileRefused, TooLarge
from waggle.infra.ssh.sftp.entries import shown
from waggle.infra.ssh.typed import SftpFile, open_file

_CLOSE_SECONDS = 2.0


class Opener:
    """Opens files, and closes them behind the caller's back."""

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()

    async def open(
        self, sftp: asyncssh.SFTPClient, path: str, limit: int, *, is_next_page: bool
    ) -> tuple[int, SftpFile]:
        """A file's size and the file. Raises FileRefused, TooLarge over `limit`, SFTPError.

        The next page of what was a regular file a moment ago is opened without asking first: a
        guest that puts a pipe there meanwhile makes its own client wait.
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
        """Close what was only read; a file that cannot be closed goes with its session."""
        task = asyncio.create_task(close(file))
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that the loop does not report it


async def close(file: SftpFile) -> None:
    """Close, for a bounded time: a server that hangs loses its session anyway."""
    async with asyncio.timeout(_CLOSE_SECONDS):
        await file.close()


async def _size(sftp: asyncssh.SFTPClient, path: str, limit: int) -> int:
    """What the guest says that a regular file has."""
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
    """For pipes, devices and sockets."""
    return FileRefused(
        f"{shown(path)} is not a regular file.", hint="Use execute for devices and pipes."
    )


def too_large(path: str, size: str, limit: int) -> TooLarge:
    """For what is longer than a call may carry; both in bytes."""
    return TooLarge(
        f"{shown(path)} has {size} bytes; the limit is {limit}.",
        hint="Read a part of it with execute, for example with head or split.",
    )
