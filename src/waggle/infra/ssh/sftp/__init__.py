# SPDX-License-Identifier: Apache-2.0
"""Files of a guest over SFTP, as the user that programs run as.

Called by the local guest. The guest controls the SFTP server: names, sizes, types and attributes
are claims, checked or bounded here, and never used as a path on the host. The calls of an
environment share one SFTP session, which is opened again when it breaks. A call that fails or is
cancelled in the middle retires its session: running calls finish on it, new calls do not use it,
and the last call closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import asyncssh

from waggle.domain.errors import GuestLost, WaggleError
from waggle.domain.files import FileSlice, FileVersion, Listing
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.asyncssh_internals import Channel, PacketDecodeError, open_sftp
from waggle.infra.ssh.sftp.reading import Opener, ignore_failure, list_directory, refusal, too_large
from waggle.infra.ssh.sftp.writing import read_range, read_to_end, version_of, write

OPEN_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Session:
    client: asyncssh.SFTPClient
    channel: Channel
    users: int = 0
    retired: bool = False


class SftpSessions:
    """The lender of the shared session. Closing the connection ends all sessions."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection
        self._opening: asyncio.Task[_Session] | None = None

    @asynccontextmanager
    async def borrow(self) -> AsyncGenerator[asyncssh.SFTPClient]:
        """Lend a session for one call, and retire it if the call is cut off or the session fails.

        Raises GuestLost, asyncssh.Error, OSError or TimeoutError if none can be opened.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(ignore_failure)
        opening = self._opening
        try:
            session = await asyncio.shield(opening)
        except Exception:
            self._forget(opening)
            raise
        session.users += 1
        try:
            yield session.client
        except BaseException as error:
            if not _is_harmless(error):
                session.retired = True
                self._forget(opening)
            raise
        finally:
            session.users -= 1
            if session.retired and session.users == 0:
                session.channel.abort()

    def _forget(self, opening: asyncio.Task[_Session]) -> None:
        if self._opening is opening:
            self._opening = None

    async def _open(self) -> _Session:
        async with asyncio.timeout(OPEN_SECONDS):
            return _Session(*await open_sftp(await self._connection.get()))


def is_answer(error: BaseException) -> bool:
    """Whether the error is an SFTP server's refusal of a request."""
    return isinstance(error, asyncssh.SFTPError) and not isinstance(
        error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection
    )


def _is_harmless(error: BaseException) -> bool:
    """Whether the session is certainly still good.

    "Bad message" is OpenSSH's status for a name that is too long, and asyncssh's for invalid data.
    """
    if isinstance(error, WaggleError):
        return True
    return is_answer(error) and not isinstance(error, asyncssh.SFTPBadMessage)


DEADLINE: Final = 60.0
_T = TypeVar("_T")


class Files:
    """File operations over a pooled connection. `deadline` is seconds for one call."""

    def __init__(self, connection: SshConnection, *, deadline: float = DEADLINE) -> None:
        self._sessions = SftpSessions(connection)
        self._deadline = deadline
        self._opener = Opener()

    async def write(
        self,
        path: str,
        data: bytes,
        mode: int | None = None,
        *,
        unless_changed: FileVersion | None = None,
    ) -> None:
        """See `domain.host.Guest.write_file`."""
        await self._call(path, lambda sftp: write(sftp, path, data, mode, unless_changed))

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
        """Do the work, and repeat it on a new session if the old one is found dead.

        All work here is safe to repeat.
        """
        cause = "it keeps ending"
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
                    except (asyncssh.Error, PacketDecodeError, OSError) as error:
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
                end = min(wanted.stop, size)
                data = await read_range(file, wanted.start, end)
                came = wanted.start + len(data)
                return FileSlice(data, min(size, came) if came < end else size)
            data = await read_to_end(file, limit)
        finally:
            self._opener.close(file)
        if len(data) > limit:
            raise too_large(path, f"more than {limit}", limit)
        return FileSlice(data[wanted.start : wanted.stop], len(data))

    async def _read_version(
        self, sftp: asyncssh.SFTPClient, path: str, limit: int
    ) -> tuple[bytes, FileVersion]:
        version = version_of(await sftp.stat(path.encode()))
        part = await self._read(sftp, path, range(limit), limit)
        return part.data, version
