# SPDX-License-Identifier: Apache-2.0
"""Archives and packed trees that are built to exhaust the server's time and memory."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable

import anyio.to_thread
import pytest
from tests.support.hostile_archives import (
    TINY,
    archive_of_headers,
    deep_archive,
    deep_records,
    packed_window,
    zip_of_long_extra_fields,
    zip_of_many_entries,
)
from tests.support.strain import STALL, strained

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import MAX_TREE_ENTRIES, TreeEntry, decode
from waggle.infra.archive.trees import END, header, read_archive, write_archive

pytestmark = pytest.mark.anyio
MIB = 1 << 20


class Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(bytes(data))  # pyright: ignore[reportArgumentType] # any buffer


def rewritten(records: bytes) -> None:
    entries = decode(lambda at, size: records[at : at + size], len(records))
    write_archive(entries, Nowhere())


def a_deep_archive() -> Callable[[], object]:
    data = deep_archive()
    assert len(data) < 865_000
    return lambda: read_archive(data)


def a_deep_packed_tree() -> Callable[[], object]:
    records = deep_records() + b"e 0 0 0\0\0"
    return lambda: rewritten(records)


def a_zip_of_many_entries() -> Callable[[], object]:
    data = zip_of_many_entries()
    return lambda: read_archive(data)


def a_zip_of_long_extra_fields() -> Callable[[], object]:
    data = zip_of_long_extra_fields()
    return lambda: read_archive(data)


@pytest.mark.parametrize(
    "attack",
    [a_deep_archive, a_deep_packed_tree, a_zip_of_many_entries, a_zip_of_long_extra_fields],
)
async def test_an_attack_is_refused_before_it_costs_time_or_memory(
    attack: Callable[[], Callable[[], object]],
) -> None:
    work = attack()
    async with strained() as strain:
        with pytest.raises(TooLarge):
            await anyio.to_thread.run_sync(work)
    assert strain.stall < STALL
    assert strain.grown < 60 * MIB


def test_an_archive_with_only_extension_headers_is_refused_early() -> None:
    """230 kB once led to 100 MiB of parsed headers: 17 s in a thread that holds the interpreter."""
    data = archive_of_headers()
    assert len(data) < 250_000
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1  # at most once per MiB

    with pytest.raises(InvalidArgument, match=r"more than 16000000 bytes of extension headers"):
        read_archive(data, check)
    assert looks < 20


@pytest.mark.parametrize("window, most", [(64 * MIB, 100 * MIB), (128 * MIB, 24 * MIB)])
async def test_a_packed_window_takes_bounded_memory(window: int, most: int) -> None:
    """32 kB once took 260 MiB: a window, and twice the output of one read."""
    data = packed_window(window)
    assert len(data) < 40_000
    async with strained() as strain:
        with contextlib.suppress(InvalidArgument, TooLarge):
            await anyio.to_thread.run_sync(read_archive, data)
    assert strain.stall < STALL
    assert strain.grown < most


async def test_a_tree_with_too_many_records_is_refused() -> None:
    """A guest can send 15 million records, and all of them were once kept."""
    records = TINY * 3_000_000
    async with strained() as strain:
        with pytest.raises(ValueError, match="too many records"):
            await anyio.to_thread.run_sync(rewritten, records)
    assert strain.stall < STALL
    assert strain.grown < 20 * MIB


def test_only_the_first_hundred_skipped_entries_are_listed() -> None:
    records = TINY * MAX_TREE_ENTRIES + b"e 0 0 0\0\0"
    entries = decode(lambda at, size: records[at : at + size], len(records))
    left_out = write_archive(entries, Nowhere())
    assert (left_out.count, len(left_out.first)) == (MAX_TREE_ENTRIES, 100)


@pytest.mark.slow
def test_memory_is_given_back_after_large_trees() -> None:
    """A server uses the C library's allocator; see `waggle.allocator`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.tree_memory"],
        env={**os.environ, "PYTHONMALLOC": "malloc"},
        capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    before, peak, after = map(int, done.stdout.split())
    assert peak - before < 150
    assert after - before < max(before * 15 // 100, 12)


class Enough(Exception):
    """The exception that the caller's check raises."""


@pytest.mark.parametrize("direction", ["up", "down"])
def test_work_stops_when_the_check_of_its_caller_raises(direction: str) -> None:
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 10:
            raise Enough

    entries = [TreeEntry(Kind.FILE, b"%d" % n) for n in range(1_000)]
    archive = b"".join(header(entry.name, entry) for entry in entries) + END
    work: dict[str, Callable[[], object]] = {
        "up": lambda: read_archive(archive, check),
        "down": lambda: write_archive(entries, Nowhere(), check),
    }
    with pytest.raises(Enough):
        work[direction]()
