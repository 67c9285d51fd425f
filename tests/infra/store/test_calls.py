# SPDX-License-Identifier: Apache-2.0
"""Keyed calls in a real database: kept across restarts, for a day and up to a limit per owner."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.in_memory import IN_MEMORY

from waggle.domain.access import KEEP, KEEP_PER_OWNER, KeyedCall, KnownCall
from waggle.infra.store.database import APPLICATION_ID, MIGRATIONS, Database
from waggle.infra.store.environments import SqliteCalls

pytestmark = pytest.mark.anyio
CALL = KeyedCall("alice", "key", "print")


async def test_a_call_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for expected in (None, KnownCall("print", None), KnownCall("print", "{}")):
        database = await Database.open(path)
        calls = SqliteCalls(database, lambda: 1_000.0)
        assert await calls.find(CALL) == expected
        if expected is None:
            await calls.begin(CALL)
        else:
            await calls.finish(CALL, "{}")
        await database.aclose()


async def test_owners_do_not_see_each_others_keys_and_forgetting_is_idempotent(
    tmp_path: Path,
) -> None:
    database = await Database.open(tmp_path / "state.db")
    calls = SqliteCalls(database, lambda: 1_000.0)
    await calls.begin(CALL)
    other = KeyedCall("bob", "key", "print")
    assert await calls.find(other) is None
    await calls.forget(other)
    await calls.forget(CALL)
    await calls.forget(CALL)
    assert await calls.find(CALL) is None
    await database.aclose()


async def test_calls_too_old_or_over_the_limit_are_forgotten(in_memory: Path) -> None:
    now = 1_000.0
    database = await Database.open(in_memory / "state.db")
    calls = SqliteCalls(database, lambda: now)
    await calls.begin(CALL)
    now += KEEP.total_seconds()
    assert await calls.find(CALL) is None
    for number in range(KEEP_PER_OWNER + 3):
        now += 1
        await calls.begin(KeyedCall("bob", str(number), "print"))
    rows = await database.read("SELECT owner, key FROM calls ORDER BY started_at", ())
    assert len(rows) == KEEP_PER_OWNER
    assert (rows[0]["owner"], rows[0]["key"]) == ("bob", "3")
    await database.aclose()


KEEP_BYTES = 100
sized = st.lists(st.integers(0, 60), min_size=1, max_size=12)
ended = sized.flatmap(lambda sizes: st.permutations([*enumerate(sizes)]))


def newest(kept: dict[int, int], number: int, size: int) -> dict[int, int]:
    """Return the results kept when one more ends: it, and as many of the newest as fit."""
    left, total = {number: size}, size
    for other in sorted(kept, reverse=True):
        total += kept[other]
        if total <= KEEP_BYTES or not kept[other]:
            left[other] = kept[other]
    return left


def numbered(number: int) -> KeyedCall:
    return KeyedCall("bob", str(number), "print")


@settings(max_examples=30, deadline=None)
@given(ended)
def test_results_are_limited_in_bytes_oldest_dropped_first(calls: list[tuple[int, int]]) -> None:
    async def scenario(directory: str) -> None:
        now = 1_000.0
        database = await Database.open(Path(directory) / "state.db")
        store = SqliteCalls(database, lambda: now, keep_bytes=KEEP_BYTES)
        await store.begin(CALL)
        await store.finish(CALL, "x" * 90)
        for number in range(len(calls)):
            now += 1
            await store.begin(numbered(number))
        kept: dict[int, int] = {}
        running = {number for number, _ in calls}
        for number, size in calls:
            text = "é" * (size // 2) + "x" * (size % 2)
            await store.finish(numbered(number), text)
            kept = newest(kept, number, size)
            running.discard(number)
            assert sum(kept.values()) <= KEEP_BYTES
            found = [at for at in range(len(calls)) if await store.find(numbered(at))]
            assert set(found) == {*kept, *running}
            assert await store.find(numbered(number)) == KnownCall("print", text)
        assert await store.find(CALL) == KnownCall("print", "x" * 90)
        await database.aclose()

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        anyio.run(scenario, directory)


async def test_results_of_an_older_server_count_too(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as old, old:
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in (*MIGRATIONS[0], *MIGRATIONS[1]):
            old.execute(statement)
        old.execute("INSERT INTO calls VALUES ('alice', 'old', 'print', 900, ?)", ("é" * 40,))
        old.execute("PRAGMA user_version = 2")
    database = await Database.open(path)
    calls = SqliteCalls(database, lambda: 1_000.0, keep_bytes=KEEP_BYTES)
    old_call = KeyedCall("alice", "old", "print")
    assert await calls.find(old_call) == KnownCall("print", "é" * 40)
    await calls.begin(CALL)
    await calls.finish(CALL, "x" * 21)
    assert await calls.find(old_call) is None
    assert await calls.find(CALL) == KnownCall("print", "x" * 21)
    await database.aclose()
