# SPDX-License-Identifier: Apache-2.0
"""The state database is durable, private and bounded, and reports damage clearly."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.infra.store.saved import NOW, environment
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.environment import State
from waggle.domain.errors import DiskFull
from waggle.domain.network import parse_network
from waggle.infra.store import database, environments
from waggle.infra.store.database import StateCorrupt, StateUnavailable, translate
from waggle.infra.store.environments import SqliteStore

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[SqliteStore]:
    store = await SqliteStore.open(path)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
def path(in_memory: Path) -> Path:
    return in_memory / "state.db"


async def test_a_saved_environment_is_there_after_a_restart(path: Path) -> None:
    async with opened(path) as store:
        await store.save(environment())
    async with opened(path) as store:
        assert await store.get(environment().id) == environment()
        assert await store.get(environment(2).id) is None


async def test_saving_again_replaces_the_record(path: Path) -> None:
    async with opened(path) as store:
        await store.save(environment())
        changed = replace(environment(), state=State.ERROR, error="The machine died")
        await store.save(changed)
        assert await store.get(environment().id) == changed
        assert await store.unfinished() == [changed]


async def test_unfinished_returns_all_but_destroyed_environments(path: Path) -> None:
    async with opened(path) as store:
        for number, state in enumerate(State):
            await store.save(environment(number, state))
        states = [e.state for e in await store.unfinished()]
    assert states == [state for state in State if state is not State.DESTROYED]


async def test_calls_in_progress_are_not_saved(path: Path) -> None:
    async with opened(path) as store:
        await store.save(environment().call_started(NOW))
        assert await store.get(environment().id) == environment()


async def test_only_the_latest_destroyed_records_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "KEEP_DESTROYED", 3)
    async with opened(path) as store:
        await store.save(environment(0))
        for number in range(1, 6):
            await store.save(environment(number, State.DESTROYED))
        await store.save(environment(3, State.DESTROYED))  # changed last: outlives 4
        await store.save(environment(6, State.DESTROYED))
        kept = [n for n in range(7) if await store.get(environment(n).id) is not None]
    assert kept == [0, 3, 5, 6]


async def test_concurrent_calls_take_effect_in_order(path: Path) -> None:
    async with opened(path) as store, anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(store.save, replace(environment(), ssh_port=number))
        for number in range(50):
            group.start_soon(store.get, environment(number).id)
    async with opened(path) as store:
        found = await store.get(environment().id)
    assert found is not None
    assert found.ssh_port == 49


async def test_a_second_connection_can_read_the_file(path: Path) -> None:
    async with opened(path) as writer, opened(path) as reader:
        await writer.save(environment())
        assert await reader.unfinished() == [environment()]


async def test_only_the_owner_can_read_it(path: Path) -> None:
    path.touch(mode=0o644)
    async with opened(path) as store:
        await store.save(environment())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


async def test_a_closed_store_raises_and_can_be_closed_again(path: Path) -> None:
    async with opened(path) as store:
        await store.aclose()
        with pytest.raises(StateUnavailable, match="is closed"):
            await store.save(environment())


async def test_closing_leaves_no_files_and_no_threads(path: Path) -> None:
    import threading

    async with opened(path) as store:
        await store.save(environment())
    assert [file.name for file in path.parent.iterdir()] == ["state.db"]
    assert not [t for t in threading.enumerate() if t.name.startswith("waggle-state")]


async def test_a_lone_surrogate_is_stored_as_a_question_mark(path: Path) -> None:
    async with opened(path) as store:
        await store.save(replace(environment(), error="console: \ud800\0!"))
        found = await store.get(environment().id)
    assert found is not None
    assert found.error == "console: ?\0!"


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" * 9])
async def test_a_file_that_is_no_database_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StateCorrupt, match=r"state\.db cannot be used") as raised:
        await SqliteStore.open(path)
    assert "Move it away" in raised.value.hint
    assert path.read_bytes() == content, "what is damaged is kept for whoever repairs it"


async def test_a_damaged_page_is_reported(path: Path) -> None:
    async with opened(path) as store:
        for number in range(200):
            await store.save(environment(number))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StateCorrupt):
        async with opened(path) as store:
            await store.unfinished()


async def test_an_invalid_record_is_reported(path: Path) -> None:
    async with opened(path) as store:
        await store.save(environment())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE environments SET state = 'dancing'")
    connection.close()
    async with opened(path) as store:
        with pytest.raises(StateCorrupt, match="dancing"):
            await store.unfinished()


async def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StateCorrupt, match="belongs to another program"):
        await SqliteStore.open(path)


async def test_a_database_of_a_newer_waggle_is_left_alone(path: Path) -> None:
    async with opened(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateCorrupt, match="a newer waggle wrote it"):
        await SqliteStore.open(path)


async def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as store:
        await store.save(environment())
    broken = (*database.MIGRATIONS, ("CREATE TABLE half (x)", "NONSENSE"))
    monkeypatch.setattr(database, "MIGRATIONS", broken)
    with pytest.raises(StateUnavailable):
        await SqliteStore.open(path)
    monkeypatch.undo()
    async with opened(path) as store:
        assert await store.unfinished() == [environment()]
    connection = sqlite3.connect(path)
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.close()
    assert tables == [("environments",), ("calls",)]


async def test_a_symlink_or_a_missing_directory_is_refused(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(StateUnavailable, match="cannot be opened"):
        await SqliteStore.open(path)
    with pytest.raises(StateUnavailable, match="No such file"):
        await SqliteStore.open(path.parent / "missing" / "state.db")
    assert [file.name for file in path.parent.iterdir()] == ["state.db"]


async def test_a_full_disk_is_reported_and_loses_nothing(path: Path) -> None:
    async with opened(path) as store:
        await store.save(environment())
        await store.database.read("PRAGMA max_page_count = 1", ())
        large = replace(environment(2), error="x" * 100_000)
        with pytest.raises(DiskFull, match="no room for its state"):
            await store.save(large)
        assert await store.get(environment().id) == environment()


@needs_root
async def test_saving_works_again_when_a_full_disk_has_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk.path / "state.db"
        async with opened(path) as store:
            await store.save(environment())
            disk.fill()
            large = replace(environment(2), error="x" * 200_000)
            with pytest.raises(DiskFull):
                await store.save(large)
            assert await store.get(environment().id) == environment()
            disk.free()
            await store.save(environment(2))
            disk.fill()
        async with opened(path) as again:  # raises the reason if it cannot be opened
            assert await again.unfinished() == [environment(), environment(2)]


@needs_root
async def test_making_a_database_on_a_full_disk_is_reported(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        disk.fill()
        with pytest.raises(DiskFull):
            await SqliteStore.open(disk.path / "state.db")
        disk.free()
        async with opened(disk.path / "state.db") as store:
            await store.save(environment())


@needs_root
async def test_a_read_only_disk_is_reported_as_full(tmp_path: Path) -> None:
    """SQLite hides the system's error, as it does when a disk quota is used up."""
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk.path / "state.db"
        async with opened(path) as store:
            await store.save(environment())
        with disk.read_only(), pytest.raises(DiskFull, match=r"directory of its state .* only be"):
            await SqliteStore.open(path)
        async with opened(path) as store:
            assert await store.unfinished() == [environment()]


async def test_an_io_error_on_a_disk_with_room_is_not_reported_as_full(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert isinstance(translate(tmp_path / "state.db", error), StateUnavailable)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from dataclasses import replace
sys.path.insert(0, {tests!r})
from tests.infra.store.saved import environment
from waggle.infra.store.environments import SqliteStore

async def main():
    store = await SqliteStore.open(Path({path!r}))
    for number in range(20):
        await store.save(environment(number))
    print("saved", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_saved_environments_survive_kill_9(path: Path) -> None:
    root = Path(__file__).parents[3]
    program = KILLED.format(tests=str(root), path=str(path))
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            timeout=60,
            check=False,
            env={"PYTHONPATH": str(root / "src")},
        )
    )
    assert (done.returncode, done.stdout) == (-9, b"saved\n"), done.stderr
    async with opened(path) as store:
        assert await store.unfinished() == [environment(number) for number in range(20)]


@pytest.mark.parametrize("registries", [None, (), ("pip.example.org:443", "npm.example.org:443")])
async def test_registries_are_recorded_also_that_they_were_not_asked_for(
    path: Path, registries: tuple[str, ...] | None
) -> None:
    network = parse_network("@packages, example.org")
    saved = replace(environment(), registries=registries, network=network)
    async with opened(path) as store:
        await store.save(saved)
        found = await store.get(saved.id)
        assert found is not None
        assert (found.registries, found.network) == (registries, network)
