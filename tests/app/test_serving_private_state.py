# SPDX-License-Identifier: Apache-2.0
"""Private state of stdio servers: all have their own, and that of dead servers is removed."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from waggle.app.serving import ALIVE, private_state, sweep
from waggle.domain.environment import Environment, State
from waggle.domain.machine import Resources
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.shared.confined import identify
from waggle.infra.store.environments import SqliteStore

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def environment(pid: int) -> Environment:
    """Return a running environment whose machine is the process `pid`."""
    return Environment(
        id="00000000-0000-4000-8000-000000000001",
        name="shell-1",
        runtime=RuntimeName.SHELL,
        image="local/shell",
        owner="local",
        resources=Resources(1, 512, 1024),
        network=NO_NETWORK,
        idle_timeout=timedelta(minutes=30),
        created_at=NOW,
        last_used_at=NOW,
        state=State.RUNNING,
        ssh_port=10_001,
        machine=identify(pid),
        booted_from={},
    )


def left(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir())


async def test_two_servers_have_separate_directories_and_remove_them(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "stdio"
    async with private_state(root) as first, private_state(root) as second:
        assert first != second
        (second / "state.db").write_bytes(b"")
        await sweep(root)
        assert left(root) == sorted([first.name, second.name])
        assert first.stat().st_mode & 0o777 == 0o700
    assert left(root) == []


async def test_many_servers_can_start_at_the_same_time(tmp_path: Path) -> None:
    seen: set[Path] = set()

    async def one() -> None:
        async with private_state(tmp_path) as directory:
            seen.add(directory)
            await anyio.lowlevel.checkpoint()
            assert directory.is_dir()

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(one)
    assert len(seen) == 10
    assert left(tmp_path) == []


@pytest.mark.parametrize("by", ["the next start", "another server"])
async def test_state_and_machines_of_a_killed_server_are_removed(tmp_path: Path, by: str) -> None:
    dead = tmp_path / "dead"
    (dead / "environments" / "x").mkdir(parents=True)
    (dead / ALIVE).touch()
    machine = subprocess.Popen(["sleep", "1000"])
    store = await SqliteStore.open(dead / "state.db")
    await store.save(environment(machine.pid))
    await store.aclose()
    if by == "another server":
        await sweep(tmp_path)
    else:
        async with private_state(tmp_path):
            pass
    assert machine.wait(10) == -9
    assert left(tmp_path) == []


async def test_a_broken_database_does_not_stop_a_start(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / "state.db").write_bytes(b"this is no database" * 100)
    async with private_state(tmp_path) as directory:
        assert directory.is_dir()


async def test_links_and_other_files_are_not_removed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "stdio"
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    (root / "file").touch()
    await sweep(root)
    await sweep(tmp_path / "nowhere")
    assert (root / "link").is_symlink()
    assert (root / "file").exists()
    assert elsewhere.is_dir()
