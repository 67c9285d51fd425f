# SPDX-License-Identifier: Apache-2.0
"""The dialer of servers that a guest asks for: resolve, judge every address, connect.

Called by `egress` for each request. The policy is enforced here: a socket connects to exactly the
address object that was judged, and the name is not looked up again, so a name server that changes
its answer (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from waggle.infra.net import guest_request
from waggle.infra.net.guest_request import DialTimes, Home, Target
from waggle.infra.net.policy import ALLOWED, Address, AddressPolicy, Verdict, permits_port
from waggle.infra.net.resolve import MAX_ADDRESSES, Resolver
from waggle.infra.net.streams import CHUNK, Stream

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OnDecision = Callable[[str, int, Verdict], None]


class Dialer:
    """The opener of connections that the policy permits."""

    def __init__(
        self,
        policy: AddressPolicy,
        ports: frozenset[int] | None,
        resolver: Resolver,
        times: DialTimes,
        on_decision: OnDecision,
    ) -> None:
        """`on_decision` is called for every decision, with the host's name made printable."""
        self._policy = policy
        self._ports = ports
        self._resolver = resolver
        self._times = times
        self._on_decision = on_decision
        self.home: Home | None = None
        """Connects requests of the guest for itself; without it they are refused."""

    async def at_home(self, target: Target) -> Stream | None:
        """Connect to the guest itself if the target means that; else return None.

        A loopback address that the operator's list permits means the host's. Raises Refusal.
        """
        addresses = self.home.addresses(target) if self.home else ()
        if self.home is None or not addresses:
            return None
        if target.address is not None and self._policy.permits(target.address).allowed:
            return None
        stream = await self.home.open(addresses, target.port, self._times.connect)
        if stream is None:
            raise guest_request.unreachable(target.host, target.port)
        return stream

    async def open(self, target: Target) -> Connection:
        """Open a connection, which the caller closes. Raises Refusal; cleans up when cancelled."""
        permitted = await self._permitted(target)
        try:
            async with asyncio.timeout(self._times.connect):
                chosen = await _Race(permitted, target.port, self._times.stagger).run()
                if chosen is None:
                    raise guest_request.unreachable(target.host, target.port)
                return await _wrap(chosen)
        except TimeoutError:
            raise guest_request.too_slow(target.host, "connecting") from None

    async def _permitted(self, target: Target) -> Sequence[Address]:
        verdict = permits_port(target.port, self._ports)
        if verdict.allowed:
            addresses = await self._resolve(target)
            verdicts = [self._policy.permits(address) for address in addresses]
            permitted = [a for a, v in zip(addresses, verdicts, strict=True) if v.allowed]
            verdict = ALLOWED if permitted else verdicts[0]
        else:
            permitted = []
        self._on_decision(guest_request.printable(target.host), target.port, verdict)
        if not verdict.allowed:
            raise guest_request.denied(target.host, verdict)
        return permitted

    async def _resolve(self, target: Target) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        try:
            async with asyncio.timeout(self._times.dns):
                found = await self._resolver(target.host)
        except TimeoutError:
            raise guest_request.too_slow(target.host, "resolving the name") from None
        except OSError as error:
            if error.errno == socket.EAI_AGAIN:
                raise guest_request.unanswered(target.host) from None
            raise guest_request.unresolvable(target.host) from None
        if not found:
            raise guest_request.unresolvable(target.host)
        return found[:MAX_ADDRESSES]


class _Race:
    """Attempts at the addresses, started one after another; the first to connect wins.

    An address has `stagger` seconds before the next one is tried beside it.
    """

    def __init__(self, addresses: Sequence[Address], port: int, stagger: float) -> None:
        self._addresses = addresses
        self._port = port
        self._stagger = stagger
        self._settled = asyncio.Event()
        self._attempts: list[asyncio.Task[None]] = []
        self._winner: socket.socket | None = None

    async def run(self) -> socket.socket | None:
        """Return the connected socket, or None if every attempt failed."""
        try:
            async with asyncio.TaskGroup() as group:
                for address in self._addresses:
                    if self._winner is not None:
                        break
                    self._settled.clear()
                    self._attempts.append(group.create_task(self._attempt(address)))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._stagger):
                            await self._settled.wait()
        except BaseException:
            if self._winner is not None:
                self._winner.close()
            raise
        return self._winner

    async def _attempt(self, address: Address) -> None:
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        with contextlib.ExitStack() as undo:
            try:
                connecting = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
                connecting.setblocking(False)
                place = (str(address), self._port)
                await asyncio.get_running_loop().sock_connect(connecting, place)
            except OSError:
                self._settled.set()
                return
            if self._winner is None:
                self._winner = connecting
                undo.pop_all()
                for other in self._attempts:
                    if other is not asyncio.current_task():
                        other.cancel()
            self._settled.set()


async def _wrap(connected: socket.socket) -> Connection:
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await asyncio.open_connection(sock=connected, limit=CHUNK)
    except BaseException:
        connected.close()
        raise
