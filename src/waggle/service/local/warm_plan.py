# SPDX-License-Identifier: Apache-2.0
"""What a pool of warm machines should do next. Pure; `warm_pool` does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from waggle.domain.environment import Resources
from waggle.domain.programs.runtime import RuntimeName

FIRST_DELAY: Final = 5.0
LONGEST_DELAY: Final = 300.0


@dataclass(frozen=True, slots=True)
class WarmKind:
    """What a create must ask for to be served by a machine of the pool."""

    runtime: RuntimeName
    image: str
    """As the operator names it."""
    resources: Resources


@dataclass(frozen=True, slots=True)
class Trouble:
    """How often machines of a kind failed in a row, and when the next may be made."""

    times: int
    until: float

    @staticmethod
    def after(earlier: Trouble | None, now: float) -> Trouble:
        """One more failure: each makes the next try wait twice as long, up to LONGEST_DELAY."""
        times = earlier.times + 1 if earlier else 1
        # Bounded first: a power of a large number is no number of seconds any more.
        delay = min(FIRST_DELAY * 2.0 ** min(times - 1, 30), LONGEST_DELAY)
        return Trouble(times, now + delay)


def next_kind(
    wanted: Mapping[WarmKind, int],
    have: Iterable[WarmKind],
    troubles: Mapping[WarmKind, Trouble],
    now: float,
) -> WarmKind | None:
    """The kind to make one more of: that which has the least of what is wanted of it."""
    count = Counter(have)
    short = [
        kind
        for kind, number in wanted.items()
        if count[kind] < number and (kind not in troubles or troubles[kind].until <= now)
    ]
    return min(short, key=lambda kind: count[kind] / wanted[kind], default=None)
