# SPDX-License-Identifier: Apache-2.0
"""This terminal as one of an environment, over the server's websocket.

Used by `waggle shell` and `waggle exec -t`. The program belongs to the environment: when the
connection breaks, this attaches to it again where it was. docs/terminals.md has the protocol.
"""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from waggle.cli.advice import advice, message
from waggle.cli.client import CallRefused, server_url
from waggle.cli.env import tty
from waggle.cli.env.program import SIGNALLED
from waggle.config import Settings
from waggle.domain.errors import GuestLost, SetupIncomplete, WaggleError
from waggle.tasks import together

AGAIN_SECONDS = 60.0
"""How long this tries to attach again after a broken connection."""
_OPEN_SECONDS = 120.0
_MESSAGE = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0
_END_PAUSE = 1.0
_AGAIN = (429, 502, 503, 504)
"""Refusals that may pass."""
_GONE, _REFUSED, _INVALID = 4001, 4003, 1008
_INTERRUPT, _TERMINAL_END, _CLEAR_LINE = b"\x03", b"\x04", b"\x15"


@dataclass(frozen=True, slots=True)
class Place:
    """The terminal to open: a new shell of `user`, or `job` from its `offset` on.

    `name` is how the user calls the environment.
    """

    environment_id: str
    name: str
    user: str = "sandbox"
    job: int | None = None
    offset: int | None = None


class Attached:
    """One terminal, over one connection after the other. `again_seconds` bounds the tries."""

    def __init__(
        self, settings: Settings, place: Place, *, again_seconds: float = AGAIN_SECONDS
    ) -> None:
        self._settings = settings
        self._place = place
        self._again_seconds = again_seconds
        self._job = place.job
        self._offset = place.offset
        self._input = tty.descriptor()
        self._socket: ClientConnection | None = None
        self._changed = anyio.Event()
        self._code: int | None = None
        self._detached = False
        self._is_introduced = False
        self._work = anyio.CancelScope()

    async def run(self) -> int:
        """Converse until the program ends or the user detaches; return the exit code.

        Raises CallRefused, SetupIncomplete and GuestLost.
        """
        async with together() as group:
            group.start_soon(self._signals)
            await self._connect()
            self._work = group.cancel_scope
            with tty.raw(self._input):
                if self._input is not None:
                    group.start_soon(self._keys, self._input)
                await self._converse()
            group.cancel_scope.cancel()
        if self._detached:
            tty.notice(f"Job {self._job} goes on; '{self._command}' attaches to it again.")
        return self._code or 0

    @property
    def _command(self) -> str:
        return f"waggle shell {self._place.name} --job {self._job}"

    async def _converse(self) -> None:
        while True:
            code = await self._receive()
            if self._code is not None or self._detached:
                return
            if code == _GONE:
                raise GuestLost("The program is lost with its environment.", hint="")
            if code in (_REFUSED, _INVALID) or self._job is None:
                raise CallRefused("The server closed the terminal.", hint="See its log.")
            tty.notice("The connection broke; attaching again. Ctrl-C gives up.")
            await self._reconnect()
            tty.notice("Attached again.")

    async def _reconnect(self) -> None:
        pause, last = _FIRST_PAUSE, None
        with anyio.move_on_after(self._again_seconds):
            while True:
                try:
                    return await self._connect()
                except _MayPass as error:
                    last = error.refusal
                await anyio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        why = f" {last.message}" if last else ""
        raise SetupIncomplete(
            f"The connection is lost.{why}",
            hint=f"If its environment is still there, '{self._command}' attaches again.",
        )

    async def _connect(self) -> None:
        """Open a connection. Raises _MayPass, which is a refusal, or CallRefused."""
        token = self._settings.token.get_secret_value()
        opening = connect(
            self._url(),
            additional_headers={"Authorization": f"Bearer {token}"} if token else {},
            compression=None,
            max_size=_MESSAGE,
            open_timeout=_OPEN_SECONDS,
        )
        try:
            socket = await opening
        except InvalidStatus as error:
            refusal = _refusal(error.response.status_code, bytes(error.response.body or b""))
            if error.response.status_code in _AGAIN:
                raise _MayPass(refusal) from error
            raise refusal from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            url = server_url(self._settings)
            refusal = SetupIncomplete(f"No terminal opens at {url}.", hint="See the server's log.")
            raise _MayPass(refusal) from error
        self._socket, changed = socket, self._changed
        self._changed = anyio.Event()
        changed.set()

    def _url(self) -> str:
        base = server_url(self._settings).removesuffix("/mcp")
        query: dict[str, object] = {"user": self._place.user}
        if size := tty.size():
            query |= {"rows": size[0], "columns": size[1]}
        if self._job is not None:
            query["job"] = self._job
        if self._offset is not None:
            query["offset"] = self._offset
        place = f"{base}/environments/{self._place.environment_id}/terminal"
        return f"ws{place.removeprefix('http')}?{urlencode(query)}"

    async def _receive(self) -> int | None:
        """Show what comes until the connection ends; return the code of its close, if any."""
        socket = self._socket
        if socket is None:
            return None
        with contextlib.suppress(ConnectionClosed):
            async for data in socket:
                if isinstance(data, bytes):
                    self._offset = (self._offset or 0) + len(data)
                    await tty.show(data)
                else:
                    self._take(cast("dict[str, Any]", json.loads(data)))
        self._socket = None
        return socket.close_code

    def _take(self, text: dict[str, Any]) -> None:
        match text:
            case {"job": int(job), "offset": int(offset)}:
                if not self._is_introduced and tty.is_terminal(self._input):
                    tty.notice(f"This is job {job}. {tty.ESCAPE} leaves it running.")
                self._is_introduced = True
                self._job, self._offset = job, offset
            case {"skipped": int(count)}:
                self._offset = (self._offset or 0) + count
                tty.notice(f"{count} bytes of output are not kept.")
            case {"paused": True}:
                tty.notice("The environment is paused; typing resumes it.")
            case {"exit": int(code)}:
                self._code = code
            case {"signal": str(name)}:
                number = getattr(signal, name, 0) if name.startswith("SIG") else 0
                self._code = SIGNALLED + int(number)
            case {"error": str(why)}:
                tty.notice(message(why))
            case _:
                pass  # of a newer server

    async def _keys(self, number: int) -> None:
        escape = tty.Escape() if tty.is_terminal(number) else None
        async for data in tty.typed(number):
            if escape and self._socket is None:  # nothing is kept while it is not attached
                if _INTERRUPT in data:
                    self._code, self._detached = SIGNALLED + signal.SIGINT, True
                    self._work.cancel()
                continue
            passed, detach = escape.feed(data) if escape else (data, False)
            if passed:
                await self._send(passed)
            if detach:
                await self._detach()
                return
        await self._send(_TERMINAL_END)
        while True:  # a program that has just begun misses that, or has it as a key in its line
            await anyio.sleep(_END_PAUSE)
            await self._send(_CLEAR_LINE + _TERMINAL_END)

    async def _send(self, data: bytes | str) -> None:
        """Send over this connection, or the next one if it breaks."""
        while True:
            socket, changed = self._socket, self._changed
            if socket is not None:
                with contextlib.suppress(ConnectionClosed):
                    return await socket.send(data)
            await changed.wait()

    async def _detach(self) -> None:
        self._detached = True
        if self._socket is not None:
            await self._socket.close()

    async def _signals(self) -> None:
        """Pass on sizes. When this terminal hangs up, so does that one; SIGTERM detaches."""
        numbers = (signal.SIGWINCH, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        with anyio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                if number == signal.SIGWINCH:
                    if size := tty.size():
                        with anyio.move_on_after(1):
                            await self._send(json.dumps({"resize": size}))
                    continue
                if number != signal.SIGTERM:
                    with anyio.move_on_after(1):
                        await self._send(json.dumps({"signal": "HUP"}))
                self._code = SIGNALLED + number
                await self._detach()


class _MayPass(Exception):
    """The server cannot be reached now. Left to `run`'s caller as its refusal."""

    def __init__(self, refusal: WaggleError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _refusal(status: int, body: bytes) -> CallRefused:
    """Return the server's refusal; a program that is no waggle server has another form."""
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        answer = cast("object", json.loads(body))
        if isinstance(answer, dict):
            words = cast("dict[str, Any]", answer)
            hint = advice(str(words.get("hint", "")))
            return CallRefused(
                message(str(words.get("error", ""))) or f"The server refuses: HTTP {status}.",
                hint=hint,
                reason=str(words.get("code", "")),
            )
    return CallRefused(f"The server opens no terminal: HTTP {status}.")


async def attach(settings: Settings, place: Place) -> int:
    """Be the terminal of `place`; see `Attached.run`."""
    try:
        return await Attached(settings, place).run()
    except _MayPass as error:
        raise error.refusal from error
