# SPDX-License-Identifier: Apache-2.0
"""The write side of SFTP: write a file of a guest safely, and transfer a file's bytes.

Used by `Files`. The new content is written beside the target, then renamed over it. The kit's
`replace.c` turns the rename into a write in place where a new file would differ: other owners,
other names (hard links), attributes. So an interrupted call leaves the old file or the new one.
Several requests are under way at once, in bounded memory. The server may be hostile: a block counts
for no more than was requested, and sizes are claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import asyncssh

from waggle.domain.errors import FileRefused
from waggle.domain.files import DEFAULT_MODE, FileVersion
from waggle.infra.ssh.asyncssh_internals import SftpFile, open_file
from waggle.infra.ssh.sftp.reading import DISK_FULL, close, not_regular, shown
from waggle.tasks import end, finish

BLOCK: Final = 128 * 1024
WRITE_BLOCK: Final = 255 * 1024
"""The most that OpenSSH's server accepts: fewer, larger packets cost an emulated guest less."""
IN_FLIGHT: Final = 12


async def write_all(file: SftpFile, data: bytes) -> None:
    """Write `data` from the start. Raises asyncssh.Error; safe to cancel."""

    async def write_block(offset: int) -> None:
        await file.write(data[offset : offset + WRITE_BLOCK], offset)

    await _for_all(range(0, len(data), WRITE_BLOCK), write_block)


async def read_range(file: SftpFile, start: int, stop: int) -> bytes:
    """Read from `start` up to `stop`; returns less if the file ends before `stop`."""
    blocks: dict[int, bytes] = {}

    async def read_block(offset: int) -> None:
        blocks[offset] = await _block(file, offset, min(BLOCK, stop - offset))

    await _for_all(range(start, stop, BLOCK), read_block)
    data = bytearray()
    for offset in sorted(blocks):
        if offset != start + len(data):
            break  # the block before was short: the file ended there
        data += blocks[offset]
    return bytes(data)


async def read_to_end(file: SftpFile, limit: int) -> bytes:
    """Read a file of unknown size, as in /proc; returns at most one byte more than `limit`."""
    data = bytearray()
    while len(data) <= limit:
        more = await _block(file, len(data), min(BLOCK, limit + 1 - len(data)))
        if not more:
            break
        data += more
    return bytes(data)


async def _block(file: SftpFile, offset: int, size: int) -> bytes:
    """Read exactly `size` bytes, or less if the file ends before."""
    data = b""
    while len(data) < size:
        piece = await file.read(size - len(data), offset + len(data))
        if not piece:
            break
        data += piece
    return data[:size]


async def _for_all(offsets: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Do the work for every offset, IN_FLIGHT at a time; the first failure ends the others."""
    rest = iter(offsets)
    workers = [
        asyncio.ensure_future(_work_off(rest, work)) for _ in range(min(IN_FLIGHT, len(offsets)))
    ]
    try:
        await asyncio.gather(*workers)
    finally:
        await end(*workers)


async def _work_off(offsets: Iterator[int], work: Callable[[int], Awaitable[None]]) -> None:
    for offset in offsets:
        await work(offset)


_CLEAN_UP_SECONDS: Final = 2.0
_ELSEWHERE: Final = b"/tmp"
"""Directory for the new content if the target is writable and its directory is not."""
_MISSING = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)


@dataclass(frozen=True, slots=True)
class _Target:
    """The file to write, with links followed; `mode` is the existing file's, None without one."""

    path: bytes
    mode: int | None


def version_of(attributes: asyncssh.SFTPAttrs) -> FileVersion:
    """Return the version of a file, which differs once the file has changed."""
    return FileVersion(
        attributes.size or 0, attributes.mtime or 0, stat.S_IMODE(attributes.permissions or 0)
    )


def kept(mode: int) -> int:
    """Return the permission bits that survive a write: like write(2), no set-id bits."""
    is_locked = mode & stat.S_ISGID and not mode & stat.S_IXGRP
    return mode & ~stat.S_ISUID & (~0 if is_locked else ~stat.S_ISGID)


async def write(
    sftp: asyncssh.SFTPClient,
    path: str,
    data: bytes,
    mode: int | None,
    unless_changed: FileVersion | None,
) -> None:
    """Write the file. Without `mode` it keeps its own mode, and a new file gets DEFAULT_MODE.

    Safe to repeat. Raises FileRefused, asyncssh.Error and OSError.
    """
    target = await _target(sftp, path)
    if mode is None:
        mode = DEFAULT_MODE if target.mode is None else kept(target.mode)
    file, temporary = await _temporary(sftp, target, mode)
    try:
        try:
            await write_all(file, data)
            attributes = asyncssh.SFTPAttrs(permissions=mode)
            # Both are sent before either is answered; a server handles them in this order.
            await asyncio.gather(file.setstat(attributes), file.close())
        except BaseException:
            await finish(_give_up(file))
            raise
        if unless_changed is not None and (
            version_of(await sftp.stat(target.path)) != unless_changed
        ):
            raise FileRefused(
                f"{shown(path)} changed while it was edited.", hint="Read it and edit it again."
            )
        await sftp.posix_rename(temporary, target.path)
    except BaseException as error:
        await finish(_remove(sftp, temporary))
        if isinstance(error, asyncssh.SFTPFailure) and await _lacks_room(
            sftp, posixpath.dirname(target.path), len(data)
        ):
            raise FileRefused(DISK_FULL, hint="Delete something first.") from error
        raise


async def _target(sftp: asyncssh.SFTPClient, path: str) -> _Target:
    """Find the file to write, and make the parents of a new one. Raises FileRefused."""
    raw = path.encode()
    attributes, real = await asyncio.gather(
        sftp.stat(raw), sftp.realpath(raw), return_exceptions=True
    )
    if isinstance(attributes, _MISSING):
        if not posixpath.basename(raw):
            raise FileRefused(f"{shown(path)} names a directory.", hint="Name a file.")
        # A dangling link leads to the file to make, if that can be made.
        return _Target(await _new(sftp, path) if isinstance(real, BaseException) else real, None)
    if isinstance(attributes, BaseException):
        raise attributes
    kind = attributes.permissions or 0
    if stat.S_ISDIR(kind):
        raise FileRefused(f"{shown(path)} is a directory.", hint="Name a file in it.")
    if not stat.S_ISREG(kind):
        raise not_regular(path)
    if isinstance(real, BaseException):
        raise real
    return _Target(real, stat.S_IMODE(kind))


async def _new(sftp: asyncssh.SFTPClient, path: str) -> bytes:
    """Make the missing directories of a new file; return its path. Raises FileRefused."""
    raw = path.encode()
    try:
        about = await sftp.lstat(raw)
    except _MISSING:
        await sftp.makedirs(posixpath.dirname(raw), exist_ok=True)
        return raw
    if not stat.S_ISLNK(about.permissions or 0):
        return raw
    raise FileRefused(
        f"{shown(path)} is a link into a directory that is not there.",
        hint="Make that directory, or delete the link.",
    )


async def _temporary(
    sftp: asyncssh.SFTPClient, target: _Target, mode: int
) -> tuple[SftpFile, bytes]:
    """Make a file for the content, beside the target if possible; return it and its path."""
    name = b".waggle-" + secrets.token_hex(8).encode()
    path = posixpath.join(posixpath.dirname(target.path), name)
    try:
        return await _made(sftp, path, mode), path
    except asyncssh.SFTPPermissionDenied:
        if target.mode is None:
            raise
        await close(await open_file(sftp, target.path, "r+b"))  # raises if it may not be written
        path = posixpath.join(_ELSEWHERE, name)
        return await _made(sftp, path, mode), path


async def _made(sftp: asyncssh.SFTPClient, path: bytes, mode: int) -> SftpFile:
    """Make a file, and remove it again if the caller is cancelled before the answer.

    A server handles requests in order, so by then the file exists. Its handle ends with the
    session.
    """
    try:
        return await open_file(sftp, path, "xb", mode)
    except asyncio.CancelledError:
        await finish(_remove(sftp, path))
        raise


async def _give_up(file: SftpFile) -> None:
    """Close a file that is no longer needed; the earlier failure is the one to report."""
    with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
        await close(file)


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
