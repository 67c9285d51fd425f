# SPDX-License-Identifier: Apache-2.0
"""Sides take turns, in changing order, and warm-ups do not count."""

from __future__ import annotations

import pytest
from benchmarks.interleave import Arm, interleave

pytestmark = pytest.mark.anyio


async def test_sides_take_turns_and_keep_their_rounds() -> None:
    played: list[str] = []
    shown: list[str] = []

    def arm(name: str) -> Arm:
        async def play() -> float:
            played.append(name)
            return float(len(played))

        return play

    seconds = await interleave(
        {"a": arm("a"), "b": arm("b")}, rounds=3, warmups=2, tick=shown.append
    )
    assert "".join(played) == "abbaabbaab"
    assert seconds == {"a": [5.0, 8.0, 9.0], "b": [6.0, 7.0, 10.0]}
    assert shown[-1] == "round 3 of 3: b"


async def test_a_side_that_fails_ends_the_run() -> None:
    async def fail() -> float:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await interleave({"a": fail}, rounds=1)
