# SPDX-License-Identifier: Apache-2.0
"""The allocator of a server, the collector while serving, and when memory is returned."""

from __future__ import annotations

import gc
import platform
from pathlib import Path

import httpx2
import pytest
from tests.support.waggle_process import running

from waggle.allocator import (
    MANY,
    STARTING,
    YOUNG,
    Collector,
    c_library,
    free,
    give_back,
    set_for_serving,
    set_for_start_and_end,
    with_malloc,
)

LARGE_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


def test_the_collector_is_set_for_serving_and_restored_afterwards() -> None:
    before = gc.get_threshold()
    with set_for_serving():
        assert gc.get_threshold() == (YOUNG, *before[1:])
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_a_process_collects_seldom_at_its_start_and_not_at_its_end() -> None:
    before = gc.get_threshold()
    try:
        with set_for_start_and_end():
            assert gc.get_threshold() == (STARTING, *before[1:])
            with set_for_serving():
                assert gc.get_threshold() == (YOUNG, *before[1:])
            assert gc.get_freeze_count() == 0
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == before
    finally:
        gc.unfreeze()


def make_cycle() -> None:
    cycle: list[object] = []
    cycle.append(cycle)


def test_freeing_collects_reference_cycles() -> None:
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
async def test_memory_is_returned_when_half_of_many_are_gone(
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


@pytest.mark.parametrize("name", ["lacks the function", "cannot be loaded"])
def test_freeing_works_without_glibc(name: str) -> None:
    loaded: list[str] = []

    def load() -> object:
        loaded.append(name)
        if name == "cannot be loaded":
            raise OSError("no such library")
        return object()

    free(load)
    assert loaded == [name]


def no_name() -> tuple[str, str]:
    raise FileNotFoundError("the interpreter's own file cannot be read")


def test_a_c_library_without_a_name_counts_as_unknown() -> None:
    assert c_library(no_name) == ""
    assert c_library(lambda: ("", "")) == ""
    assert c_library() == platform.libc_ver()[0]


@pytest.mark.parametrize(
    "module, allocator",
    [("waggle", "malloc"), ("tests.support.other_libc", None)],
    ids=["with glibc", "with another C library"],
)
def test_a_server_starts_with_any_c_library(
    tmp_path: Path, module: str, allocator: str | None
) -> None:
    no_parts = {"image_cache_dir": f"{tmp_path}/cache"}
    with running(tmp_path, no_parts, module=(module, "serve")) as server:
        words = Path(f"/proc/{server.process.pid}/environ").read_text().split("\0")
        found = dict(word.split("=", 1) for word in words if word)
        assert found.get("PYTHONMALLOC") == allocator
        assert httpx2.get(f"{server.url}/healthz", timeout=20).status_code == 200


@pytest.mark.parametrize(
    "environ, libc, expected",
    [
        ({"A": "b"}, "glibc", {"A": "b", "PYTHONMALLOC": "malloc", **LARGE_BUFFERS}),
        (
            {"MALLOC_TRIM_THRESHOLD_": "7"},
            "glibc",
            {"PYTHONMALLOC": "malloc", **LARGE_BUFFERS, "MALLOC_TRIM_THRESHOLD_": "7"},
        ),
        ({"PYTHONMALLOC": "pymalloc"}, "glibc", None),
        ({"PYTHONMALLOC": "malloc"}, "glibc", None),
        ({"A": "b"}, "", None),
        ({"A": "b"}, "musl", None),
    ],
)
def test_a_server_gets_the_c_librarys_allocator_by_default(
    environ: dict[str, str], libc: str, expected: dict[str, str] | None
) -> None:
    assert with_malloc(environ, libc) == expected


@pytest.mark.anyio
async def test_memory_is_returned_after_large_messages() -> None:
    counts, freed = [0, 0, 2, 2, 3], list[int]()

    async def sleep(_seconds: float) -> None:
        counts.pop(0)
        if not counts:
            raise Over

    with pytest.raises(Over):
        await give_back(
            lambda: 0, sleep, large=lambda: counts[0], act=lambda: freed.append(counts[0])
        )
    assert freed == [2, 3]


def test_the_collector_is_stopped_until_the_last_block_ends() -> None:
    collector = Collector()
    assert gc.isenabled()
    with collector.stopped():
        with collector.stopped():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collector.stopped():
            pass
        assert not gc.isenabled()  # as it was before
    finally:
        gc.enable()
