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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, TypeVar

import asyncssh

from waggle.domain.errors import FileNotFound, FileRefused, GuestLost, TooLarge, WaggleError
from waggle.domain.filesystem import MAX_LIST_ENTRIES, FileEntry, Listing
from waggle.infra.ssh.connection import SshConnection

DEADLINE: Final = 120.0
_T = TypeVar("_T")


class Files:
    """SFTP over a pooled connection, with one session that is opened again when it breaks."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection
        self._session: asyncssh.SFTPClient | None = None
        self._turn = asyncio.Lock()

    async def write(self, path: str, data: bytes, mode: int) -> None:
        """See `domain.host.Guest.write_file`."""
        await self._with_session(path, lambda sftp: _write(sftp, path, data, mode))

    async def read(self, path: str, limit: int) -> bytes:
        """See `domain.host.Guest.read_file`."""
        return await self._with_session(path, lambda sftp: _read(sftp, path, limit))

    async def list(self, path: str) -> Listing:
        """See `domain.host.Guest.list_files`."""
        return await self._with_session(path, lambda sftp: _list(sftp, path))

    async def _open(self) -> asyncssh.SFTPClient:
        async with self._turn:
            if self._session is None:
                connection = await self._connection.get()
                self._session = await connection.start_sftp_client(path_encoding=None)
            return self._session

    async def _with_session(
        self, path: str, work: Callable[[asyncssh.SFTPClient], Awaitable[_T]]
    ) -> _T:
        """Do the work, once more with a new session if the old one turns out to be dead.

        All work here is safe to repeat. A guest that stalls costs its session.
        """
        for attempt in (1, 2):
            session: asyncssh.SFTPClient | None = None
            try:
                async with asyncio.timeout(DEADLINE), _readable_errors(path):
                    session = await self._open()
                    return await work(session)
            except (
                asyncssh.ConnectionLost,
                asyncssh.SFTPConnectionLost,
                asyncssh.SFTPNoConnection,
            ):
                self._forget(session)
                if attempt == 2:
                    break
            except (TimeoutError, asyncssh.Error, OSError) as error:
                self._forget(session)
                raise GuestLost(
                    f"The guest's file server failed: {type(error).__name__}."
                ) from error
            except asyncio.CancelledError:
                self._forget(session)
                raise
        raise GuestLost("The guest's file server does not stay up.")

    def _forget(self, session: asyncssh.SFTPClient | None) -> None:
        if session is not None:
            session.exit()
        if self._session is session:
            self._session = None


@asynccontextmanager
async def _readable_errors(path: str) -> AsyncIterator[None]:
    """SFTP's status codes as errors that name the path."""
    shown = path[:200]
    try:
        yield
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
        raise FileNotFound(f"There is no {shown} in the environment.") from error
    except asyncssh.SFTPPermissionDenied as error:
        raise FileRefused(
            f"The sandbox user may not do that with {shown}.",
            hint="Use a path under /home/sandbox or /tmp.",
        ) from error
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
        raise
    except asyncssh.SFTPError as error:
        raise FileRefused(
            f"The guest refused {shown}: {_clean(error.reason)}.",
            hint="The disk may be full, or the path may not be a regular file.",
        ) from error


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:100]) or "no reason given"


async def _write(sftp: asyncssh.SFTPClient, path: str, data: bytes, mode: int) -> None:
    """Write beside the target, then rename over it: readers see the old file or the new one."""
    target = await _resolve(sftp, path)
    attributes = asyncssh.SFTPAttrs(permissions=mode)
    if target.kind is not None and not stat.S_ISREG(target.kind):
        if stat.S_ISDIR(target.kind):
            raise FileRefused(f"{path[:200]} is a directory.", hint="Name a file in it.")
        async with sftp.open(target.path, "wb") as file:
            await file.write(data)
        return
    temporary = target.path + b".waggle-" + secrets.token_hex(4).encode()
    try:
        async with sftp.open(temporary, "xb", attributes) as file:
            await file.write(data)
            await file.setstat(attributes)
        await sftp.posix_rename(temporary, target.path)
    except BaseException:
        await asyncio.shield(_remove(sftp, temporary))
        raise


async def _remove(sftp: asyncssh.SFTPClient, path: bytes) -> None:
    try:
        async with asyncio.timeout(2):
            await sftp.remove(path)
    except (TimeoutError, OSError, asyncssh.Error, WaggleError):
        return


class _Target:
    """Where a write goes once links are followed, and what is there now."""

    def __init__(self, path: bytes, kind: int | None) -> None:
        self.path = path
        self.kind = kind


async def _resolve(sftp: asyncssh.SFTPClient, path: str) -> _Target:
    raw = path.encode()
    try:
        attributes = await sftp.stat(raw)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        parent = posixpath.dirname(raw.rstrip(b"/"))
        await sftp.makedirs(parent, exist_ok=True)
        return _Target(raw, None)
    resolved = await sftp.realpath(raw)
    return _Target(_as_bytes(resolved), attributes.permissions)


def _as_bytes(path: bytes | str) -> bytes:
    return path if isinstance(path, bytes) else path.encode()


async def _read(sftp: asyncssh.SFTPClient, path: str, limit: int) -> bytes:
    attributes = await sftp.stat(path.encode())
    kind = attributes.permissions or 0
    if stat.S_ISDIR(kind):
        raise FileRefused(f"{path[:200]} is a directory.", hint="Use list_files for it.")
    if not stat.S_ISREG(kind):
        raise FileRefused(f"{path[:200]} is not a regular file.", hint="")
    if (attributes.size or 0) > limit:
        raise _too_large(path, attributes.size or 0, limit)
    async with sftp.open(path.encode(), "rb") as file:
        data = await file.read(limit + 1, 0)
    if len(data) > limit:
        raise _too_large(path, len(data), limit)
    return bytes(data)


def _too_large(path: str, size: int, limit: int) -> TooLarge:
    return TooLarge(
        f"{path[:200]} has {size} bytes; the limit is {limit}.",
        hint="Read a part of it with execute, for example with head or split.",
    )


async def _list(sftp: asyncssh.SFTPClient, path: str) -> Listing:
    entries: list[FileEntry] = []
    truncated = False
    async for item in sftp.scandir(path.encode()):
        name = _as_bytes(item.filename)
        if name in (b".", b"..") or b"/" in name or not name:
            continue
        if len(entries) == MAX_LIST_ENTRIES:
            truncated = True
            break
        entries.append(_entry(name, item.attrs))
    return Listing(path, tuple(sorted(entries, key=lambda e: e.name)), truncated)


def _entry(name: bytes, attributes: asyncssh.SFTPAttrs) -> FileEntry:
    kind = attributes.permissions or 0
    seconds = min(max(attributes.mtime or 0, 0), 253_402_300_799)
    return FileEntry(
        name=name.decode("utf-8", "backslashreplace"),
        size=max(attributes.size or 0, 0),
        is_dir=stat.S_ISDIR(kind),
        is_link=stat.S_ISLNK(kind),
        mode=stat.S_IMODE(kind),
        modified=datetime.fromtimestamp(seconds, UTC),
    )
