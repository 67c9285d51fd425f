# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, the lock between processes, and the removal of directories."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.small_disk import needs_root, small_disk
from tests.support.waiting import cancelled

from waggle.domain.errors import TimedOut
from waggle.infra.shared.files import GONE, FileLock, atomic_write, remove_directory

HOLD_LOCK = """
import sys, time
from pathlib import Path
from waggle.infra.shared.files import FileLock
with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


class TestAtomicWrite:
    def test_makes_a_file_of_exactly_the_mode(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            atomic_write(tmp_path / "f", b"hello", 0o644)
        finally:
            os.umask(before)
        assert (tmp_path / "f").read_bytes() == b"hello"
        assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o644

    def test_replaces_a_symlink_and_leaves_its_target(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_bytes(b"old")
        link.symlink_to(target)
        atomic_write(link, b"new")
        assert target.read_bytes() == b"old"
        assert not link.is_symlink()
        assert link.read_bytes() == b"new"

    def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "inside").write_bytes(b"")
        with pytest.raises(OSError, match=r"(?i)directory"):
            atomic_write(tmp_path / "d", b"x")
        assert [path.name for path in tmp_path.iterdir()] == ["d"]


class TestFileLock:
    def test_two_objects_of_one_process_exclude_each_other(self, tmp_path: Path) -> None:
        first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
        assert first.try_acquire()
        assert not second.try_acquire()
        first.release()
        assert second.try_acquire()
        second.release()
        second.release()
        assert not second.held

    def test_one_object_is_not_reentrant(self, tmp_path: Path) -> None:
        with FileLock(tmp_path / "l") as lock, pytest.raises(RuntimeError):
            lock.try_acquire()

    def test_does_not_follow_a_symlink(self, tmp_path: Path) -> None:
        (tmp_path / "l").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic link"):
            FileLock(tmp_path / "l").try_acquire()
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.anyio
    async def test_a_wait_that_times_out_names_the_holder(self, tmp_path: Path) -> None:
        process = holder(tmp_path / "l")
        try:
            with pytest.raises(TimedOut, match=f"process {process.pid}"):
                async with FileLock(tmp_path / "l", timeout=0.02):
                    raise AssertionError
        finally:
            end(process)

    @pytest.mark.anyio
    async def test_a_killed_holder_frees_the_lock(self, tmp_path: Path) -> None:
        process = holder(tmp_path / "l")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        async with FileLock(tmp_path / "l", timeout=5) as lock:
            assert lock.owner() == f"process {os.getpid()}"

    @pytest.mark.anyio
    async def test_a_waiter_gets_the_lock_when_it_is_released(self, tmp_path: Path) -> None:
        first = FileLock(tmp_path / "l")
        await first.acquire()
        second = FileLock(tmp_path / "l", timeout=10)
        waiting = asyncio.ensure_future(second.acquire())
        await asyncio.sleep(0)
        assert not second.held
        first.release()
        await waiting
        assert second.held
        second.release()

    @pytest.mark.anyio
    async def test_a_cancelled_wait_holds_nothing(self, tmp_path: Path) -> None:
        with FileLock(tmp_path / "l"):
            waiting = asyncio.ensure_future(FileLock(tmp_path / "l").acquire())
            await asyncio.sleep(0)
            await cancelled(waiting)
        with FileLock(tmp_path / "l", timeout=0) as free:
            assert free.held

    def test_an_owner_text_that_is_not_a_pid_is_not_shown(self, tmp_path: Path) -> None:
        (tmp_path / "l").write_bytes(b"\x1b[31m evil\n")
        assert FileLock(tmp_path / "l").owner() == "another process"


class TestRemoveDirectory:
    def test_removes_everything_and_may_be_repeated(self, tmp_path: Path) -> None:
        (tmp_path / "d" / "below").mkdir(parents=True)
        (tmp_path / "d" / "below" / "f").write_bytes(b"x")
        for _ in range(2):
            remove_directory(tmp_path / "d")
        assert list(tmp_path.iterdir()) == []

    @needs_root
    def test_an_interrupted_removal_leaves_no_part_under_the_old_name(self, tmp_path: Path) -> None:
        """A mount point cannot be deleted, so the rest stays, as after a kill at that point."""
        with small_disk(tmp_path / "d" / "held", 1):
            remove_directory(tmp_path / "d")
            (left,) = tmp_path.iterdir()
            assert left.name.startswith(f"{GONE}d-")
            (tmp_path / "d").mkdir()
            remove_directory(tmp_path / "d")
            assert list(tmp_path.iterdir()) == [left]

    @needs_root
    def test_a_directory_that_cannot_be_renamed_is_still_emptied(self, tmp_path: Path) -> None:
        """The directory itself is a mount point, which cannot be renamed."""
        with small_disk(tmp_path / "d", 1):
            (tmp_path / "d" / "f").write_bytes(b"x")
            remove_directory(tmp_path / "d")
            assert list((tmp_path / "d").iterdir()) == []
