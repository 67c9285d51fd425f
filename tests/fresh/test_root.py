# SPDX-License-Identifier: Apache-2.0
"""A bare root is always removed, and the programs in it end with the process that runs them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from fresh.root import LATE, LEFT, enter, workplace
from tests.support.programs import program

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root can enter another root"
)
APPLETS = ("sh", "tr", "umount", "rmdir", "sleep", "ls", "cat", "unshare", "true")
SECONDS = 60


@pytest.fixture
def tree(tmp_path: Path) -> Generator[Path]:
    """Make the smallest root that can run programs; nothing of it stays mounted."""
    for name in ("bin", "proc", "sys", "dev", "run"):
        (tmp_path / name).mkdir()
    shutil.copy(program("busybox"), tmp_path / "bin/busybox")
    for name in APPLETS:
        (tmp_path / "bin" / name).symlink_to("busybox")
    yield tmp_path
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_the_workplace_is_empty_and_removed_with_its_contents() -> None:
    with workplace() as place:
        assert list(place.iterdir()) == []
        (place / "sub").mkdir()
        (place / "sub" / "file").touch()
    assert not place.exists()


def test_the_workplace_is_removed_when_its_maker_is_killed() -> None:
    program = (
        "from fresh.root import workplace\nimport signal\n"
        "with workplace() as place:\n"
        "    (place / 'file').touch(); print(place, flush=True); signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        place = Path(process.stdout.readline().strip())
        assert place.is_dir()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while place.exists() and time.monotonic() < deadline:
        os.sched_yield()
    assert not place.exists()


@as_root
class TestEntering:
    def test_the_exit_code_is_that_of_the_program(self, tree: Path) -> None:
        assert enter(tree, ["sh", "-c", "exit 7"], SECONDS) == 7

    def test_a_program_sees_the_root_and_its_own_processes_only(
        self, tree: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert enter(tree, ["sh", "-c", "ls /; ls -d /proc/[0-9]*"], SECONDS) == 0
        shown = capfd.readouterr().out.split()
        assert set(shown) >= {"bin", "proc"}
        assert "home" not in shown
        assert len([word for word in shown if word.startswith("/proc/")]) <= 3

    def test_user_namespaces_can_be_made_in_a_root(self, tree: Path) -> None:
        """A chroot would refuse them."""
        assert enter(tree, ["unshare", "-U", "true"], SECONDS) == 0

    def test_processes_left_behind_are_named_and_ended(
        self, tree: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert enter(tree, ["sh", "-c", "sleep 1234 & exit 0"], SECONDS) == LEFT
        assert "sleep 1234" in capfd.readouterr().err

    def test_a_program_past_its_deadline_is_ended(self, tree: Path) -> None:
        assert enter(tree, ["sleep", "1000"], 0.5) == LATE
