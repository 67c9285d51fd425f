# SPDX-License-Identifier: Apache-2.0
"""Passing a request on to a guest: bodies both ways as they come, and websockets.

Called by `waggle.web.exposed` with a visit of the port. Nothing is collected: a side is read only
as fast as the other takes it, and all waits have an end. A websocket is two streams of bytes once
the guest has agreed to it; its messages are not looked at. Knows no environments and no access.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from starlette.types import Receive, Scope, Send
from websockets.utils import accept_key

from waggle.domain.exposure import ByteStream, StreamLost
from waggle.infra.net import Stream, relay
from waggle.tasks import together
from waggle.web.answers import fields
from waggle.web.exposed import headers
from waggle.web.exposed.conversation import Answer, BadAnswer, GuestHttp
from waggle.web.exposed.headers import Caller
from waggle.web.protocol import CONNECTION, GuardedProtocol

_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class PassingLimits:
    """Limits in seconds; `flush` and `linger` are for the end of a websocket."""

    answer: float = 300.0
    """Without a byte either way until the answer begins."""
    idle: float = 3600.0
    """The same after that."""
    stall: float = 300.0
    """For a client to take a part of the answer."""
    flush: float = 10.0
    linger: float = 2.0


class Refused(Exception):
    """The request gets this status and text, since nothing was answered yet."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be passed on. `target` is its path and query as the guest knows them."""

    caller: Caller
    target: bytes
    authorization: bool
    """Whether its Authorization header is for the guest."""

    def head(self, scope: Scope, *, upgrade: bool) -> Iterator[tuple[bytes, bytes]]:
        """Yield the headers for the guest."""
        given = fields(scope)
        yield from headers.to_guest(scope["headers"], self.caller, authorization=self.authorization)
        if upgrade:
            yield b"connection", b"Upgrade"
            yield b"upgrade", b"websocket"
            return
        yield b"connection", b"close"
        if b"transfer-encoding" in given:
            yield b"transfer-encoding", b"chunked"
        elif b"content-length" in given:
            yield b"content-length", given[b"content-length"]


class Passing:
    """One request on its way. The caller owns the visit's stream."""

    def __init__(self, asked: Asked, scope: Scope, limits: PassingLimits) -> None:
        self._asked = asked
        self._scope = scope
        self._limits = limits
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether a part of the answer was sent, so that nothing else can be."""
        return self._begun

    async def run(self, stream: ByteStream, receive: Receive, send: Send) -> None:
        """Pass on the request, and the answer, whole. Returns early if the client hangs up.

        Raises Refused if nothing was answered, else BadAnswer or TimeoutError in the middle of it.
        """
        try:
            await self._run(GuestHttp(stream), stream, receive, send)
        except BadAnswer:
            if self._begun:
                raise
            raise Refused(502, "The program in the environment gave no valid answer.") from None
        except TimeoutError:
            if self._begun:
                raise
            why = f"The program in the environment did not answer within {self._limits.answer:g} s."
            raise Refused(504, why) from None

    async def _run(
        self, guest: GuestHttp, stream: ByteStream, receive: Receive, send: Send
    ) -> None:
        line: GuardedProtocol | None = self._scope.get(CONNECTION)
        offers = line is not None and line.offer
        async with asyncio.timeout(self._limits.answer) as patience, together() as group:

            def moved() -> None:
                seconds = self._limits.idle if self._begun else self._limits.answer
                if not patience.expired():
                    patience.reschedule(asyncio.get_running_loop().time() + seconds)

            head = [*self._asked.head(self._scope, upgrade=offers)]
            try:
                await guest.ask(self._scope["method"], self._asked.target, head)
            except ValueError:
                raise Refused(400, "The request cannot be passed on.") from None
            if offers:
                await guest.finish()
            taking = (guest, receive, moved, group.cancel_scope.cancel)
            group.start_soon(partial(self._take, *taking, is_whole=offers))
            answer = await guest.answer()
            if answer.status == 101 and not self._agrees(answer):
                raise BadAnswer
            self._begun = True
            moved()
            if answer.status == 101:
                patience.reschedule(None)  # the tunnel has a limit of its own
                await self._tunnel(stream, answer)
            else:
                await self._answer(guest, answer, send, moved)
            group.cancel_scope.cancel()

    async def _take(
        self,
        guest: GuestHttp,
        receive: Receive,
        moved: Callable[[], None],
        cancel: Callable[[], None],
        *,
        is_whole: bool,
    ) -> None:
        """Pass the body on, unless it `is_whole`; when the client hangs up, end everything."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                cancel()
                return
            if is_whole:
                continue
            moved()
            await guest.send(message.get("body", b""))
            if not message.get("more_body", False):
                is_whole = True
                await guest.finish()

    async def _answer(
        self, guest: GuestHttp, answer: Answer, send: Send, moved: Callable[[], None]
    ) -> None:
        has_body = self._scope["method"] != "HEAD" and answer.status not in _NO_BODY
        passed = [
            (name, value)
            for name, value in headers.from_guest(answer.headers, self._asked.caller)
            if name != b"content-length" or answer.status not in _NO_BODY
        ]
        start = {"type": "http.response.start", "status": answer.status, "headers": passed}
        await send(start)
        while has_body and (part := await guest.body()):
            async with asyncio.timeout(self._limits.stall):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            moved()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _agrees(self, answer: Answer) -> bool:
        """Whether the guest agrees to this websocket, and to nothing else."""
        key = fields(self._scope).get(b"sec-websocket-key", b"").decode("latin-1")
        accepted = dict(answer.headers).get(b"sec-websocket-accept", b"").decode("latin-1")
        upgrade = dict(answer.headers).get(b"upgrade", b"").lower()
        return upgrade == b"websocket" and accepted == accept_key(key)

    async def _tunnel(self, stream: ByteStream, answer: Answer) -> None:
        """Join client and guest, once the guest has agreed to the websocket."""
        line: GuardedProtocol = self._scope[CONNECTION]
        reader = asyncio.StreamReader()
        later = _Client(reader, line)
        if not line.upgrade(_agreement(answer, self._asked.caller), later):
            return
        loop = asyncio.get_running_loop()
        client = Stream(reader, asyncio.StreamWriter(line.transport, later, reader, loop))
        try:
            with contextlib.suppress(StreamLost):
                if answer.early:
                    await client.write(answer.early)
                await relay(client, stream, b"", self._limits.idle)
                await client.finish(self._limits.flush, self._limits.linger)
        finally:
            client.abort()


def _agreement(answer: Answer, caller: Caller) -> bytes:
    """Return the head that opens the websocket, with the guest's choices."""
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    chosen = (b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions")
    lines += [name + b": " + value for name, value in answer.headers if name in chosen]
    others = headers.from_guest(answer.headers, caller)
    lines += [name + b": " + value for name, value in others if name == b"set-cookie"]
    return b"\r\n".join([*lines, b"", b""])


class _Client(asyncio.StreamReaderProtocol):
    """A client's connection after its upgrade; its end is reported to `line`, too."""

    def __init__(self, reader: asyncio.StreamReader, line: GuardedProtocol) -> None:
        super().__init__(reader)
        self._line = line

    def eof_received(self) -> bool:
        """Close the connection: a client that sends nothing more is gone."""
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake who reads, and free the connection."""
        super().connection_lost(exc)
        self._line.connection_lost(exc)
