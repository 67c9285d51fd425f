# SPDX-License-Identifier: Apache-2.0
"""Keyed calls on a real database: kept across restarts, for a day, and so many of each owner."""

from pathlib import Path

import pytest

from waggle.domain.repeat import KEEP, KEEP_PER_OWNER, KeyedCall, KnownCall
from waggle.infra.store.calls import SqliteCalls
from waggle.infra.store.database import Database

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


async def test_what_is_too_old_or_too_much_is_forgotten(tmp_path: Path) -> None:
    now = 1_000.0
    database = await Database.open(tmp_path / "state.db")
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
