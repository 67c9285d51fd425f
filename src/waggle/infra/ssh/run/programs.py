# SPDX-License-Identifier: Apache-2.0
"""Asks the kit's launcher itself (rootfs/kit/guest/session.c), and what runs have left running.

Called by `shell` and the local guest. What the launcher answers is the guest's word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncssh

from waggle.domain.errors import GuestLost
from waggle.domain.programs.execution import NOTHING_LEFT, Left
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.run.left import MAX_LEFT, parse_left
from waggle.infra.ssh.run.session import CommandSession
from waggle.infra.ssh.typed import open_exec

_ANSWER_WINDOW: Final = 256 << 10
_WORD: Final = 1_000
_SECONDS: Final = 30.0


async def ask(connection: SshConnection, question: str, limit: int = _WORD) -> CommandSession:
    """Ask; `limit` is the bytes kept of the answer, whose exit code is None when there is none.

    Not bounded in time. Raises GuestLost; safe to cancel.
    """
    answer = CommandSession(2 * limit)
    open_connection = await connection.get()
    try:
        channel = await open_exec(open_connection, answer, question, window=_ANSWER_WINDOW)
    except (OSError, asyncssh.Error):
        return answer
    try:
        channel.write_eof()
        await answer.ended.wait()
    finally:
        channel.abort()
    return answer


class LeftPrograms:
    """What was left running in one guest. `running` has the ids of runs that go on.

    Each question takes at most 30 s. They raise GuestLost; safe to cancel.
    """

    def __init__(self, connection: SshConnection, running: Callable[[], frozenset[str]]) -> None:
        self._connection = connection
        self._running = running

    async def all(self) -> Left:
        """Those that are there; NOTHING_LEFT when the guest talks nonsense."""
        before = self._running()
        answer = await self._ask("programs", MAX_LEFT)
        said = answer.stdout.output()
        left = parse_left(said.head) if answer.exit_code == 0 else NOTHING_LEFT
        return left.without(before | self._running())

    async def end(self, pid: int) -> bool:
        """Kill one with its descendants; False when there is none."""
        return (await self._ask(f"end {pid}")).exit_code == 0

    async def end_run(self, run_id: str) -> None:
        """Kill all that a run has left, of which something is left."""
        if (await self._ask(f"kill {run_id}")).exit_code != 0:
            raise GuestLost("The guest did not end what was left running.")

    async def _ask(self, question: str, limit: int = _WORD) -> CommandSession:
        try:
            async with asyncio.timeout(_SECONDS):
                return await ask(self._connection, question, limit)
        except TimeoutError:
            raise GuestLost("The guest does not say what was left running in it.") from None
