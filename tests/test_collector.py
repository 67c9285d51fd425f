# SPDX-License-Identifier: Apache-2.0
"""The cycle collector while serving, and when memory is given back."""

from __future__ import annotations

import gc

import pytest

from waggle.collector import MANY, YOUNG, free, give_back, set_for_serving


def test_it_is_set_for_serving_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with set_for_serving():
        assert gc.get_threshold() == (YOUNG, *before[1:])
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_freeing_collects_what_refers_to_itself() -> None:
    gc.disable()
    try:
        for _ in range(MANY):
            cycle: list[object] = []
            cycle.append(cycle)
        del cycle
        free()
        assert gc.collect() < MANY
    finally:
        gc.enable()


class Over(Exception):
    """The script of a test has ended."""


@pytest.mark.anyio
@pytest.mark.parametrize(
    "counts, freed_at",
    [
        ([0, MANY - 1, 0, 0], []),
        ([0, MANY, MANY // 2 + 1, MANY // 2, 0], [MANY // 2]),
        ([0, 10 * MANY, 5 * MANY, 3 * MANY, 2 * MANY, 0, 0], [5 * MANY, 2 * MANY, 0]),
    ],
)
async def test_memory_is_given_back_when_half_of_many_have_gone(
    counts: list[int], freed_at: list[int]
) -> None:
    left = list(counts)
    freed: list[int] = []

    async def sleep(_seconds: float) -> None:
        left.pop(0)
        if not left:
            raise Over

    with pytest.raises(Over):
        await give_back(lambda: left[0], act=lambda: freed.append(left[0]), sleep=sleep)
    assert freed == freed_at
