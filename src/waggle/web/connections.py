# SPDX-License-Identifier: Apache-2.0
"""The server's connections: their owners, and which one to close when there are too many.

Used by `waggle.web.protocol`, which closes the connections that `Connections` returns. A connection
is unowned until a request on it is let in, and idle while it serves none. When there are too many,
one is closed: of the owner or address with the most idle ones, the one idle longest. So neither
silent connections nor those kept open after a request keep others out; only requests that exceed
the number served at once are refused. Knows no HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Generic, TypeVar

Line = TypeVar("Line", bound=Hashable)
"""A connection."""
_Group = tuple[str, str]
"""The holder of a connection: an owner, or an address while it is unowned."""
YOUNG_SECONDS = 1.0
"""A younger connection is not closed as silent, unless the maximum of all connections is met."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Maximum connections at once: in all, unowned, and serving requests of one owner."""

    connections: int = 1000
    unknown: int = 250
    owner: int = 1000


class Connections(Generic[Line]):
    """All connections of one server. `now` is a clock in seconds."""

    def __init__(self, limits: ConnectionLimits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._group = dict[Line, _Group]()
        self._idle = dict[_Group, dict[Line, float]]()
        """The time at which a connection became idle; the longest idle comes first."""
        self._busy = Counter[_Group]()
        self._unknown = 0
        self._refused_at: float | None = None

    def __len__(self) -> int:
        return len(self._group)

    @property
    def full(self) -> bool:
        """Whether a request was refused for lack of room in the last ten seconds."""
        at = self._refused_at
        return at is not None and self._now() - at < 10

    def opened(self, line: Line, address: str) -> list[Line]:
        """Add a new, unowned connection. Return the one to close in its place, if any."""
        self._group[line] = group = ("address", _network(address))
        self._unknown += 1
        others: list[Line] = []
        if len(self._group) > self._limits.connections:
            others = self._oldest(self._idle, 0.0)
        elif self._unknown > self._limits.unknown:
            unowned = {group: idle for group, idle in self._idle.items() if group[0] == "address"}
            others = self._oldest(unowned, YOUNG_SECONDS)
        self._rest(line, group)
        return others

    def begins(self, line: Line) -> bool:
        """Note that a request begins on `line`. Return whether it can be served."""
        group = self._group.get(line)
        if group is not None and self._wake(line, group):
            self._busy[group] += 1
        if self._busy.total() <= self._limits.connections:
            return True
        self._refused_at = self._now()
        return False

    def let_in(self, line: Line, owner: str) -> bool:
        """Note the owner of the request on `line`. Return whether it is within the limit."""
        before, after = self._group.get(line), ("owner", owner)
        if before is None:  # it has closed meanwhile
            return True
        if before != after:
            self._unknown -= before[0] == "address"
            self._group[line] = after
            self._less(before)
            self._busy[after] += 1
        return self._busy[after] <= self._limits.owner

    def ends(self, line: Line) -> None:
        """Note that the request on `line` was answered."""
        if (group := self._group.get(line)) is not None and self._busy[group]:
            self._less(group)
            self._rest(line, group)

    def closed(self, line: Line) -> None:
        """Remove a closed connection. Idempotent."""
        group = self._group.pop(line, None)
        if group is None:
            return
        self._unknown -= group[0] == "address"
        if not self._wake(line, group):
            self._less(group)

    def _rest(self, line: Line, group: _Group) -> None:
        self._idle.setdefault(group, {})[line] = self._now()

    def _wake(self, line: Line, group: _Group) -> bool:
        """Remove `line` from the idle ones. Return whether it was idle."""
        idle = self._idle.get(group, {})
        was = idle.pop(line, None) is not None
        if was and not idle:
            del self._idle[group]
        return was

    def _less(self, group: _Group) -> None:
        self._busy[group] -= 1
        if self._busy[group] <= 0:
            del self._busy[group]

    def _oldest(self, idle: dict[_Group, dict[Line, float]], age: float) -> list[Line]:
        if not idle:
            return []
        line, since = next(iter(max(idle.values(), key=len).items()))
        if self._now() - since < age:
            return []
        self.closed(line)  # the caller closes it
        return [line]


def _network(address: str) -> str:
    """Return the network of an address: the first 64 bits of IPv6, which one user has whole."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    return str(int(known) >> 64) if isinstance(known, IPv6Address) else address
