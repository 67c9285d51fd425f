# SPDX-License-Identifier: Apache-2.0
"""Who allocates a server's memory, the collector while serving, and when memory is given back."""

from __future__ import annotations

import gc

import pytest

from waggle.memory import MANY, YOUNG, free, give_back, set_for_serving, with_malloc


def test_it_is_set_for_serving_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with set_for_serving():
        assert gc.get_threshold() == (YOUNG, *before[1:])
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def make_cycle() -> None:
    cycle: list[object] = []
    cycle.append(cycle)


def test_freeing_collects_what_refers_to_itself() -> None:
    gc.disable()
    try:
        for _ in range(MANY):
            make_cycle()
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
        await give_back(lambda: left[0], sleep, act=lambda: freed.append(left[0]))
    assert freed == freed_at


@pytest.mark.parametrize(
    "environ, libc, expected",
    [
        ({"A": "b"}, "glibc", {"A": "b", "PYTHONMALLOC": "malloc"}),
        ({"PYTHONMALLOC": "pymalloc"}, "glibc", None),
        ({"PYTHONMALLOC": "malloc"}, "glibc", None),
        ({"A": "b"}, "", None),
    ],
)
def test_a_server_gets_the_c_librarys_allocator_unless_told_otherwise(
    environ: dict[str, str], libc: str, expected: dict[str, str] | None
) -> None:
    assert with_malloc(environ, libc) == expected
