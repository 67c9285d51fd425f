# SPDX-License-Identifier: Apache-2.0
"""How much of the network environments and owners may use: connections, bytes and bandwidth.

The composition root makes one `Allowances`, and gives each environment's `egress` its `Allowance`.
An allowance outlives the proxy: a pause, a rollback or a restart of the machine renews nothing. A
`Metered` stream to a server counts each piece, has it wait for its turn, and ends when the bytes
are used up. Must not know names, addresses or HTTP.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import TypeVar

from waggle.domain.network.traffic import Traffic
from waggle.infra.net import CHUNK, PeerGone, Stream, StreamReaderLike, StreamWriterLike
from waggle.infra.net.guest_request import Refusal, limited
from waggle.infra.net.lane import Lane
from waggle.infra.net.pace import Pace

DAY = 86_400
MIB = 1 << 20
REMEMBERED = 4_096
"""Environments, and owners, whose use is remembered; the ones idle longest are dropped first."""
SMALLEST_PIECE = 2_048
PIECES_PER_SECOND = 32
"""Under a rate, pieces are so small that about so many pass in a second."""
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class AllowanceLimits:
    """The operator's limits; 0 means none. Bytes count in both directions together."""

    environment_bytes: int = 0
    """Of one environment, as long as it exists."""
    owner_bytes: int = 0
    """Of all environments of one owner, in 24 hours."""
    owner_connections: int = 0
    """Of all environments of one owner, at once."""
    rate: int = 0
    """Bytes a second of one environment."""
    total_rate: int = 0
    """Bytes a second of all environments, which share them evenly."""


class Spent(PeerGone):
    """The allowance is used up; the connection ends."""


@dataclass(slots=True)
class _Owner:
    traffic: Traffic
    day: Pace | None


class Allowance:
    """What one environment may use, of its own and of its owner's."""

    def __init__(
        self,
        limits: AllowanceLimits | None = None,
        *,
        owner: _Owner | None = None,
        all_traffic: Traffic | None = None,
        all_lane: Lane | None = None,
    ) -> None:
        """Without arguments nothing is limited but the turns of the event loop."""
        self.limits = AllowanceLimits() if limits is None else limits
        self.traffic = Traffic()
        self._owner = _Owner(Traffic(), None) if owner is None else owner
        self._counted = (self.traffic, self._owner.traffic, all_traffic or Traffic())
        self._lane = Lane(self.limits.rate)
        self._all_lane = all_lane
        rates = [rate for rate in (self.limits.rate, self.limits.total_rate) if rate]
        piece = min(rates, default=CHUNK * PIECES_PER_SECOND) // PIECES_PER_SECOND
        self.piece = min(CHUNK, max(SMALLEST_PIECE, piece))
        """Bytes to read at once."""

    @property
    def owner_traffic(self) -> Traffic:
        """The totals of all environments of this one's owner."""
        return self._owner.traffic

    def no_connection(self) -> Refusal | None:
        """Return why the owner may open no further connection, or None."""
        most = self.limits.owner_connections
        if most and self._owner.traffic.open >= most:
            return too_many_of_owner(most)
        return None

    @contextlib.contextmanager
    def connected(self) -> Generator[None]:
        """Count an open connection of the guest until the block ends."""
        for traffic in self._counted:
            traffic.open += 1
        try:
            yield
        finally:
            for traffic in self._counted:
                traffic.open -= 1

    def count_connection(self) -> None:
        """Count a connection of the guest, served or turned away."""
        for traffic in self._counted:
            traffic.connections += 1

    def count_refusal(self) -> None:
        """Count a request that the proxy answers itself."""
        for traffic in self._counted:
            traffic.refused += 1

    def spent(self) -> Refusal | None:
        """Return why no further byte may pass, or None."""
        limits = self.limits
        if limits.environment_bytes and self.traffic.bytes >= limits.environment_bytes:
            return used_up(limits.environment_bytes)
        day = self._owner.day
        if day is not None and day.is_over:
            return used_up_by_owner(limits.owner_bytes, day.wait(MIB))
        return None

    async def turn(self, size: int = 0) -> None:
        """Wait until `size` more bytes may pass. Cancellable."""
        await self._lane.enter(size)
        if self._all_lane is not None:
            await self._all_lane.enter(size, self)

    async def received(self, size: int) -> None:
        """Count bytes from a server, which go on when this returns. Raises Spent."""
        self._check()
        for traffic in self._counted:
            traffic.to_guest += size
        await self._passed(size)

    async def sent(self, size: int) -> None:
        """Count bytes for a server, which go on when this returns. Raises Spent."""
        self._check()
        for traffic in self._counted:
            traffic.to_internet += size
        await self._passed(size)

    def _check(self) -> None:
        if self.spent() is not None:
            raise Spent

    async def _passed(self, size: int) -> None:
        if self._owner.day is not None:
            self._owner.day.take(size)
        await self.turn(size)


class Metered(Stream):
    """A stream to a server, whose bytes count in `allowance`."""

    def __init__(
        self, reader: StreamReaderLike, writer: StreamWriterLike, allowance: Allowance
    ) -> None:
        super().__init__(reader, writer)
        self._allowance = allowance

    async def read(self, limit: int = CHUNK) -> bytes:
        """Read at most `limit` bytes when they may pass. Raises PeerGone, Spent."""
        data = await super().read(min(limit, self._allowance.piece))
        if data:
            await self._allowance.received(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Write all of `data` when it may pass. Raises PeerGone, Spent."""
        await self._allowance.sent(len(data))
        await super().write(data)


class Allowances:
    """The allowances of all environments and owners. Lives on one event loop."""

    def __init__(
        self,
        limits: AllowanceLimits,
        traffic: Traffic | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._now = now
        self._environments: dict[str, Allowance] = {}
        self._owners: dict[Hashable, _Owner] = {}
        self._lane = Lane(limits.total_rate) if limits.total_rate else None
        self.traffic = Traffic() if traffic is None else traffic
        """The totals of the server since its start."""

    def of(self, environment: str, owner: Hashable) -> Allowance:
        """Return the allowance of an environment, by its id, as it was left."""
        found = self._environments.pop(environment, None)
        if found is None:
            found = Allowance(
                self._limits,
                owner=self._owner(owner),
                all_traffic=self.traffic,
                all_lane=self._lane,
            )
        self._environments[environment] = found
        _shrink(self._environments, lambda allowance: allowance.traffic.open == 0)
        return found

    def _owner(self, owner: Hashable) -> _Owner:
        found = self._owners.pop(owner, None)
        if found is None:
            most = self._limits.owner_bytes
            day = Pace(most, most / DAY, now=self._now) if most else None
            found = _Owner(Traffic(), day)
        self._owners[owner] = found
        _shrink(self._owners, lambda known: known.traffic.open == 0)
        return found


def _shrink(known: dict[_Key, _Value], is_idle: Callable[[_Value], bool]) -> None:
    while len(known) > REMEMBERED:
        oldest = next((key for key, value in known.items() if is_idle(value)), next(iter(known)))
        del known[oldest]


def used_up(limit: int) -> Refusal:
    """429: the environment has exchanged as many bytes as it may."""
    return limited(
        "bytes-used-up",
        f"this environment has used up the {limit / MIB:g} MiB that it may exchange",
    )


def used_up_by_owner(limit: int, seconds: float) -> Refusal:
    """429: the owner's environments have exchanged as many bytes in a day as they may."""
    return limited(
        "owner-bytes-used-up",
        f"all environments of its owner have used up the {limit / MIB:g} MiB of 24 hours; try "
        f"again in {math.ceil(seconds / 60)} min",
    )


def too_many_of_owner(limit: int) -> Refusal:
    """503: the owner's environments have as many connections as they may have."""
    text = (
        f"waggle: the environments of this one's owner have {limit} connections open, the most "
        "they may (WAGGLE_EGRESS_OWNER_CONNECTIONS); close some."
    )
    return Refusal(503, "too-many-connections", text)
