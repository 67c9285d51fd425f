# SPDX-License-Identifier: Apache-2.0
"""Lines of the audit log about connections of guests, few enough whatever a guest does.

`audit` calls it with every connection that ended or was refused. The first of its kind (host, port,
outcome, rule) in a second is a line at once; others like it are summed up in one line at the end of
the second. An environment has at most MOST_KINDS kinds in a second; what exceeds them is summed up
by outcome, without a host. So an environment has at most 2 * MOST_KINDS lines a second and one per
outcome, and holds as many sums. No connection and no byte is missing from the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from waggle.domain.network.decisions import Decision
from waggle.domain.observer import Egress

MOST_KINDS: Final = 20
SECONDS: Final = 1.0
_Kind = tuple[str, int, str, str]
Write = Callable[[Egress, int], None]
"""Writes a line; the number is of the other connections in it, whose bytes it includes."""


@dataclass(slots=True)
class _Sum:
    last: Egress | None = None
    count: int = 0

    def add(self, egress: Egress) -> None:
        if self.last is not None:
            egress = replace(
                egress,
                sent=egress.sent + self.last.sent,
                received=egress.received + self.last.received,
            )
        self.last = egress
        self.count += 1


class EgressLines:
    """The connections of this second, by environment and kind."""

    def __init__(self, write: Write, later: Callable[[float, Callable[[], None]], None]) -> None:
        """`write` must not raise. `later` calls a function after some seconds."""
        self._write = write
        self._later = later
        self._kinds: dict[str, dict[_Kind, _Sum]] = {}

    def __call__(self, egress: Egress) -> None:
        """Write a line now, or count the connection for one at the end of the second."""
        kinds = self._kinds.get(egress.environment_id)
        if kinds is None:
            kinds = self._kinds[egress.environment_id] = {}
            self._wait(egress.environment_id)
        decision = egress.decision
        kind = (decision.host, decision.port, decision.code, decision.rule)
        if (known := kinds.get(kind)) is not None:
            known.add(egress)
        elif len(kinds) < MOST_KINDS:
            kinds[kind] = _Sum()
            self._write(egress, 0)
        else:
            mixed = Decision("", 0, decision.code)
            of_outcome = kinds.setdefault(("", 0, decision.code, ""), _Sum())
            of_outcome.add(replace(egress, decision=mixed))

    def flush(self) -> None:
        """Write at once what is only counted so far."""
        for kinds in self._kinds.values():
            self._write_sums(kinds)
        self._kinds.clear()

    def _wait(self, environment_id: str) -> None:
        self._later(SECONDS, lambda: self._end_second(environment_id))

    def _end_second(self, environment_id: str) -> None:
        """Write the sums; kinds that had any go on to be summed up, the others are forgotten."""
        kinds = self._write_sums(self._kinds.pop(environment_id, {}))
        if kinds:
            self._kinds[environment_id] = kinds
            self._wait(environment_id)

    def _write_sums(self, kinds: dict[_Kind, _Sum]) -> dict[_Kind, _Sum]:
        counted = {kind: found for kind, found in kinds.items() if found.last is not None}
        for found in counted.values():
            if found.last is not None:
                self._write(found.last, found.count - 1)
        return {kind: _Sum() for kind in counted}
