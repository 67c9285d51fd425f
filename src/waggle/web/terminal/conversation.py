# SPDX-License-Identifier: Apache-2.0
"""What happens on one open websocket of a terminal, until either side ends it.

Made by `waggle.web.terminal`. Several tasks share the connection: what is printed goes out, what is
typed goes in, and pings, a stopping server and a token that is not valid any more may end it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.service.programs.terminals import (
    Ended,
    Paused,
    Printed,
    Reader,
    Skipped,
    TerminalService,
)
from waggle.tasks import together
from waggle.web.terminal.messages import (
    CLOSE_FAILED,
    CLOSE_GONE,
    CLOSE_INVALID,
    CLOSE_REFUSED,
    CLOSE_STOPPING,
    Resize,
    encode,
    ending,
    parse_control,
)
from waggle.web.websocket import WebSocket

log = structlog.get_logger(__name__)


class Conversation:
    """One connection to a terminal, from its first message to its close."""

    def __init__(
        self, service: TerminalService, socket: WebSocket, reader: Reader, owner: str
    ) -> None:
        self._service = service
        self._socket = socket
        self._reader = reader
        self._owner = owner
        self._end: tuple[int, str] | None = None

    async def run(
        self, stopping: Callable[[], Awaitable[None]], refused: Callable[[], Awaitable[None]]
    ) -> None:
        """Converse until one side ends it, and close it.

        `stopping` returns when the server stops, `refused` when the client's token is not valid.
        """
        try:
            async with together() as group:
                group.start_soon(self._socket.keep)
                for work in (
                    self._show,
                    self._take,
                    lambda: self._until(stopping, CLOSE_STOPPING, "the server stops"),
                    lambda: self._until(refused, CLOSE_REFUSED, "the token is not valid any more"),
                ):
                    group.start_soon(self._first, work, group.cancel_scope)
        except Exception:
            log.exception("terminal_failed", environment=self._reader.job.environment_id)
            self._end = (CLOSE_FAILED, "internal error")
        with anyio.CancelScope(shield=True):
            await self._socket.close(*(self._end or (1000, "")))

    async def _first(self, work: Callable[[], Awaitable[object]], scope: anyio.CancelScope) -> None:
        """Do one part of the work. The first that ends, ends all."""
        await work()
        scope.cancel()

    async def _until(self, event: Callable[[], Awaitable[None]], code: int, reason: str) -> None:
        await event()
        self._end = self._end or (code, reason)

    async def _show(self) -> None:
        """Send what the program prints, until its end."""
        reader, socket = self._reader, self._socket
        await socket.send(encode(job=reader.job.number, offset=reader.offset))
        while True:
            match await reader.next():
                case Printed(data):
                    await socket.send(data)
                case Skipped(count):
                    await socket.send(encode(skipped=count))
                case Paused(is_paused):
                    await socket.send(encode(paused=is_paused))
                case Ended(view):
                    message, code = ending(view)
                    await socket.send(message)
                    self._end = (code, "lost" if code == CLOSE_GONE else "")
                    return

    async def _take(self) -> None:
        """Pass on what the client sends, until it closes the connection."""
        while (message := await self._socket.receive()) is not None:
            try:
                if isinstance(message, bytes):
                    await self._service.write(self._reader.job, message, owner=self._owner)
                else:
                    await self._control(message)
            except _NoControlMessage:
                self._end = (CLOSE_INVALID, "no control message")
                return
            except WaggleError as error:
                await self._socket.send(encode(error=error.message))

    async def _control(self, text: str) -> None:
        service, job = self._service, self._reader.job
        try:
            control = parse_control(text)
        except InvalidArgument as error:
            raise _NoControlMessage from error
        if isinstance(control, Resize):
            await service.resize(job, control.size, owner=self._owner)
        else:
            await service.signal(job, control.name, owner=self._owner)


class _NoControlMessage(Exception):
    """A text that is none of the protocol. Never leaves this module."""
