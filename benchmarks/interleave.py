# SPDX-License-Identifier: Apache-2.0
"""Run the compared sides in turns (A B A B ...), so that a busy machine slows both alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

Arm = Callable[[], Awaitable[float]]
"""Does its work once and returns the seconds that count, without preparation."""


async def interleave(
    arms: Mapping[str, Arm],
    *,
    rounds: int,
    warmups: int = 1,
    tick: Callable[[str], None] = lambda _text: None,
) -> dict[str, list[float]]:
    """Return the seconds of each arm, round by round, without the warm-ups.

    The first round is in order, the next backwards, and so on, so that no arm always follows
    another.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warmups, rounds):
        for name in list(arms)[:: -1 if (number + warmups) % 2 else 1]:
            tick(f"round {max(number + 1, 0)} of {rounds}: {name}")
            took = await arms[name]()
            if number >= 0:
                seconds[name].append(took)
    return seconds
