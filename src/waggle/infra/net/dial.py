# SPDX-License-Identifier: Apache-2.0
"""From a name that a guest asks for to a connection: resolve, judge every address, connect.

A session calls its environment's `Dialer`. A socket connects to exactly the address object that was
judged, and the name is not looked up again: a name server that changes its answer (DNS rebinding)
gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final, NoReturn

from waggle.domain.exposure import ByteStream
from waggle.domain.network.judging import Seen
from waggle.infra.net import (
    Begin,
    Connection,
    PeerGone,
    Stream,
    connect_first,
    guest_request,
)
from waggle.infra.net.gate import Gate, Passage
from waggle.infra.net.guest_request import DialTimes, Home, Refusal, Target
from waggle.infra.net.lookups import MAX_ADDRESSES
from waggle.infra.net.policy import Address
from waggle.infra.net.resolver import (
    NAMES_AT_ONCE,
    NAMES_PER_SECOND,
    Resolver,
    TooManyNames,
)
from waggle.infra.net.tls.hello import (
    HANDSHAKE,
    UNRECOGNIZED_NAME,
    BadHello,
    message_in,
    parse_hello,
)

_HANDSHAKE: Final = bytes((HANDSHAKE,))
_MAJOR: Final = b"\x03"
_UNREADABLE: Final = "?"
_OTHER_NAME: Final = BadHello(UNRECOGNIZED_NAME, "other-name", "").record()


class Dialer:
    """The opener of connections that the gate admits; it is enforced here."""

    def __init__(self, gate: Gate, resolver: Resolver, times: DialTimes) -> None:
        self._gate = gate
        self._resolver = resolver
        self._times = times
        self.home: Home | None = None
        """Connects requests of the guest for itself; without it they are refused."""

    async def at_home(self, target: Target) -> Stream | None:
        """Connect to the guest itself if the target means that; else return None.

        A loopback address that the operator's list permits means the host's. Raises Refusal.
        """
        if self.home is None or not (addresses := self.home.addresses(target)):
            return None
        if target.address is not None and self._gate.permits_own(target.address):
            return None
        stream = await self.home.open(addresses, target.port, self._times.connect)
        if stream is None:
            raise guest_request.unreachable(target.host, target.port)
        return stream

    async def open(self, target: Target, seen: Seen | None = None) -> tuple[Connection, Passage]:
        """Open a connection, which the caller closes; `seen` is the request if it is visible.

        Raises Refusal; cleans up when cancelled.
        """
        admitted = await self._gate.admit(target, seen, self._resolve)
        try:
            async with asyncio.timeout(self._times.connect):
                found = await connect_first(admitted.addresses, target.port, self._times.stagger)
        except TimeoutError:
            raise guest_request.too_slow(target.host, "connecting") from None
        if found is None:
            raise guest_request.unreachable(target.host, target.port)
        connection, address = found
        now = asyncio.get_running_loop().time()
        passage = Passage(target, address, seen, admitted.asked, admitted.rule, now)
        refusal = self._gate.judge_request(passage, seen)
        if refusal is not None:  # the rules have changed meanwhile
            connection[1].transport.abort()
            self.refuse(target, refusal)
        self._gate.passed(passage)
        return connection, passage

    def name_check(self, target: Target) -> Begin | None:
        """Return what reads the first bytes of a tunnel, if rules about its name matter.

        It raises PeerGone, after an alert to the guest, for a TLS handshake for another name, or
        in a tunnel to an address, for a name that a rule denies.
        """
        if not self._gate.has_rules:
            return None

        def is_refused(name: str) -> bool:
            if target.address is not None:
                return name == _UNREADABLE or self._gate.denies(name, target.port)
            return name != target.name

        async def begin(client: ByteStream, data: bytes) -> bytes:
            data, name = await _server_name(client, data)
            if name and is_refused(name):
                self._gate.refuse_other_name(target, name)
                await client.write(_OTHER_NAME)
                raise PeerGone
            return data

        return begin

    def judge(self, passage: Passage, seen: Seen) -> Refusal | None:
        """Judge a request inside TLS that the proxy ended; None: it may pass. Reports nothing."""
        return self._gate.judge_request(passage, seen)

    def may_be_unseen(self, passage: Passage) -> bool:
        """Whether requests may pass that the proxy does not see; if not, that is reported.

        A connection is made for rules about requests only since these are judged later.
        """
        refusal = self._gate.judge_request(passage, None)
        if refusal is not None:
            self._gate.limited(passage.target, refusal)
        return refusal is None

    def report(self, target: Target, code: str, reason: str) -> None:
        """Report that a connection that was made, or a request in it, is refused."""
        self._gate.denied(target, code, reason)

    def refuse(self, target: Target, refusal: Refusal) -> NoReturn:
        """Report that a limit denies the target, and raise the refusal."""
        self._gate.limited(target, refusal)
        raise refusal from None

    def closed(self, passage: Passage, stream: Stream) -> None:
        """Report the end of a connection that `open` opened."""
        seconds = asyncio.get_running_loop().time() - passage.since
        self._gate.ended(passage, seconds, stream.sent, stream.received)

    async def _resolve(self, target: Target) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        try:
            async with asyncio.timeout(self._times.dns):
                found = await self._resolver(target.host)
        except TooManyNames:
            self.refuse(target, guest_request.too_many_names(NAMES_AT_ONCE, NAMES_PER_SECOND))
        except TimeoutError:
            raise guest_request.too_slow(target.host, "resolving the name") from None
        except OSError as error:
            if error.errno == socket.EAI_AGAIN:
                raise guest_request.unanswered(target.host) from None
            raise guest_request.unresolvable(target.host) from None
        if not found:
            raise guest_request.unresolvable(target.host)
        return found[:MAX_ADDRESSES]


async def _server_name(client: ByteStream, data: bytes) -> tuple[bytes, str | None]:
    """Return the first bytes of a tunnel, and the name that TLS in them asks for, if any.

    What begins as TLS and cannot be read has the name _UNREADABLE.
    """
    while data[:1] == _HANDSHAKE and data[1:2] in (b"", _MAJOR):
        try:
            message = message_in(data)
            if message is not None:
                return data, (parse_hello(message).name or "").removesuffix(".")
        except BadHello:
            return data, _UNREADABLE
        if not (more := await client.read()):
            break
        data += more
    return data, None
