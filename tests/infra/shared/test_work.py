# SPDX-License-Identifier: Apache-2.0
"""Workspaces: files are placed whole or not at all, and dead workspaces are swept."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from waggle.infra.shared.work import PREFIX, place, sweep, workspace

DIES = """
import os, sys
from pathlib import Path
from waggle.infra.shared.work import workspace
with workspace(Path(sys.argv[1])) as work:
    (work / "half").write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_a_placed_file_stays_and_the_workspace_is_removed(tmp_path: Path) -> None:
    parent = tmp_path / "new" / "parent"
    with workspace(parent) as work:
        assert work.stat().st_mode & 0o777 == 0o700
        made = work / "made"
        made.mkdir()
        (made / "file").write_bytes(b"whole")
        place(made, parent / "thing")
        file = work / "file"
        file.write_bytes(b"new")
        (parent / "name").write_bytes(b"old")
        place(file, parent / "name")
    assert sorted(path.name for path in parent.iterdir()) == ["name", "thing"]
    assert (parent / "thing" / "file").read_bytes() == b"whole"
    assert (parent / "name").read_bytes() == b"new"


def test_a_directory_never_replaces_another(tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "old").touch()
    with workspace(tmp_path) as work:
        (work / "made").mkdir()
        with pytest.raises(OSError, match="not empty"):
            place(work / "made", tmp_path / "thing")
    assert [path.name for path in tmp_path.rglob("*")] == ["thing", "old"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> None:
        with workspace(tmp_path) as work:
            (work / "half").touch()
            raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_removes_dead_workspaces_and_keeps_held_ones(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", DIES, str(tmp_path)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    (dead,) = tmp_path.iterdir()
    assert (dead / "half").exists()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    with workspace(tmp_path) as held:
        sweep(tmp_path)
        assert held.exists()
        assert not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{PREFIX}link", "other"]
    sweep(tmp_path / "nothing")


def test_concurrent_workspaces_and_sweeps_do_not_interfere(tmp_path: Path) -> None:
    def make(number: int) -> None:
        for turn in range(20):
            with workspace(tmp_path) as work:
                (work / "made").write_bytes(b"whole")
                place(work / "made", tmp_path / f"{number}-{turn}")

    def clean() -> None:
        for _ in range(400):
            sweep(tmp_path)

    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(make, 1), threads.submit(make, 2)]
        work += [threads.submit(clean), threads.submit(clean)]
    assert [task.result() for task in work] == [None] * 4
    assert len(list(tmp_path.iterdir())) == 40
