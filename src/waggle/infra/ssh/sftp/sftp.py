# SPDX-License-Identifier: Apache-2.0
"""One SFTP session of an environment, shared by its calls and opened again when it breaks.

Used by `files`, which says what is done over it. A call that fails or is cancelled in the middle
leaves its session behind: others finish on it, nobody begins on it, the last one closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import asyncssh

from waggle.domain.errors import WaggleError
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.typed import Channel, open_sftp

OPEN_SECONDS: Final = 30.0


class _Session:
    def __init__(self, client: asyncssh.SFTPClient, channel: Channel) -> None:
        self.client = client
        self.channel = channel
        self.users = 0
        self.retired = False

    def close_if_done(self) -> None:
        if self.retired and self.users == 0:
            self.channel.abort()


class SftpSessions:
    """Lends out the session. The connection's owner ends everything by closing the connection."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection
        self._opening: asyncio.Task[_Session] | None = None

    @asynccontextmanager
    async def borrow(self) -> AsyncGenerator[asyncssh.SFTPClient]:
        """A session for one call, which is retired when the call is cut off or the session fails.

        Raises GuestLost, asyncssh.Error, OSError or TimeoutError when none can be opened.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_look)
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
            session.close_if_done()

    def _forget(self, opening: asyncio.Task[_Session]) -> None:
        if self._opening is opening:
            self._opening = None

    async def _open(self) -> _Session:
        async with asyncio.timeout(OPEN_SECONDS):
            return _Session(*await open_sftp(await self._connection.get()))


def is_answer(error: BaseException) -> bool:
    """Whether this is what an SFTP server says of a request that it refuses."""
    return isinstance(error, asyncssh.SFTPError) and not isinstance(
        error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection
    )


def _is_harmless(error: BaseException) -> bool:
    """Whether the session is surely as good as before.

    "Bad message" is OpenSSH's word for a name that is too long, and asyncssh's for nonsense.
    """
    if isinstance(error, WaggleError):
        return True
    return is_answer(error) and not isinstance(error, asyncssh.SFTPBadMessage)


def _look(task: asyncio.Task[_Session]) -> None:
    """Look at a failure, so that the loop does not report it when every caller has gone."""
    if not task.cancelled():
        task.exception()
