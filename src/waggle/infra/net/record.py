# SPDX-License-Identifier: Apache-2.0
"""The record of what one environment's proxy decided: bounded, whatever the guest does.

`gate` reports decisions and ends of connections, `egress` asks for the `NetworkUse`. Equal
decisions are one entry with a count. Allowed and denied ones have tables of their own, so that a
flood of one kind does not drive out the other.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from waggle.domain.network import Network
from waggle.domain.network.decisions import Decision, Ended
from waggle.domain.network.use import MOST_REMEMBERED, NetworkUse, Remembered

OnDecision = Callable[[Decision], None]
OnEnd = Callable[[Ended], None]


class Heard(NamedTuple):
    """Called once for every decision, and at the end of each connection: for logs.

    They must not raise or wait.
    """

    decided: OnDecision = lambda _decision: None
    ended: OnEnd = lambda _ended: None


_Key = tuple[str, int, str, str]


def _key(decision: Decision) -> _Key:
    """Return what makes decisions equal here; the addresses of a name change."""
    return decision.host, decision.port, decision.code, decision.rule


@dataclass(slots=True)
class _Entry:
    decision: Decision
    count: int = 0
    at: float = 0.0
    sent: int = 0
    received: int = 0


class _Table:
    """Entries by decision, the one that was used last at the end."""

    def __init__(self) -> None:
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self.total = 0

    def count(self, decision: Decision, at: float) -> None:
        self.total += 1
        key = _key(decision)
        if (entry := self._entries.get(key)) is None:
            if len(self._entries) >= MOST_REMEMBERED:
                self._entries.popitem(last=False)
            entry = self._entries[key] = _Entry(decision)
        else:
            self._entries.move_to_end(key)
        entry.decision = decision
        entry.count += 1
        entry.at = at

    def add(self, ended: Ended) -> None:
        if (entry := self._entries.get(_key(ended.decision))) is not None:
            entry.sent += ended.sent
            entry.received += ended.received

    def remember(self, total: int, groups: Sequence[Remembered], now: float) -> None:
        """Take over what another table has shown."""
        self.total = total
        for one in groups:
            entry = _Entry(one.decision, one.count, now - one.ago, one.sent, one.received)
            self._entries[_key(one.decision)] = entry

    def shown(self, now: float) -> tuple[Remembered, ...]:
        return tuple(
            Remembered(entry.decision, entry.count, now - entry.at, entry.sent, entry.received)
            for entry in self._entries.values()
        )


class Record:
    """Remembers decisions and passes them on. `now` is a monotonic clock in seconds."""

    def __init__(
        self, heard: Heard | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._heard = Heard() if heard is None else heard
        self._now = now
        self._allowed = _Table()
        self._denied = _Table()

    def remember(self, use: NetworkUse) -> None:
        """Begin with what the record of an earlier proxy has remembered."""
        self._allowed.remember(use.connections, use.allowed, self._now())
        self._denied.remember(use.refused, use.denied, self._now())

    def decided(self, decision: Decision) -> None:
        """Note a decision. Takes microseconds."""
        table = self._allowed if decision.is_allowed else self._denied
        table.count(decision, self._now())
        self._heard.decided(decision)

    def ended(self, ended: Ended) -> None:
        """Note the end of an allowed connection."""
        self._allowed.add(ended)
        self._heard.ended(ended)

    def use(self, network: Network, *, sent: int, received: int) -> NetworkUse:
        """Return what is remembered, with the proxy's totals of bytes."""
        now = self._now()
        return NetworkUse(
            network,
            self._allowed.total,
            self._denied.total,
            sent,
            received,
            self._allowed.shown(now),
            self._denied.shown(now),
        )
