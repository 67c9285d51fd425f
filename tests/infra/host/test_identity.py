# SPDX-License-Identifier: Apache-2.0
"""Recognising a process beyond its pid, and ending exactly that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from waggle.infra.host import identity as process

pytestmark = pytest.mark.anyio


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)


class TestIdentity:
    async def test_a_running_process_is_recognised(self) -> None:
        child = sleeper()
        who = process.identity(child.pid)
        assert who is not None
        assert process.is_alive(who)
        assert await process.end(who)
        assert not process.is_alive(who)  # a zombie now
        assert process.identity(child.pid) is None
        child.communicate()
        assert not await process.end(who)

    async def test_another_process_with_the_same_pid_is_left_alone(self) -> None:
        child = sleeper()
        who = process.identity(child.pid)
        assert who is not None
        for other in (replace(who, started=who.started - 1), replace(who, boot_id="before")):
            assert not process.is_alive(other)
            assert not process.send_signal(other, signal.SIGKILL)
            assert not await process.end(other)
        assert process.is_alive(who)
        assert child.poll() is None
        assert process.send_signal(who, signal.SIGTERM)
        child.communicate()

    async def test_a_polite_process_ends_in_its_grace(self) -> None:
        child = sleeper()
        who = process.identity(child.pid)
        assert who is not None
        assert await process.end(who, grace=10)
        child.communicate()
        assert child.returncode == -signal.SIGTERM

    async def test_a_stubborn_process_is_killed_after_it(self) -> None:
        code = "import signal, sys; signal.signal(15, signal.SIG_IGN); print(flush=True); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1)
        assert child.stdout is not None
        child.stdout.readline()
        who = process.identity(child.pid)
        assert who is not None
        assert await process.end(who, grace=0.05)
        child.communicate()
        assert child.returncode == -signal.SIGKILL

    @pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**40])
    async def test_impossible_pids_are_nobody(self, pid: int) -> None:
        assert process.identity(pid) is None
        me = process.identity(os.getpid())
        assert me is not None
        assert not process.send_signal(replace(me, pid=pid), signal.SIGKILL)

    async def test_a_name_with_parentheses_and_spaces_does_not_confuse(
        self, tmp_path: Path
    ) -> None:
        odd = tmp_path / "a) R 1 (b"
        odd.symlink_to("/bin/cat")
        child = subprocess.Popen([odd], stdin=-1)
        who = process.identity(child.pid)
        mine = process.identity(os.getpid())
        assert who is not None
        assert mine is not None
        assert who.started >= mine.started
        await process.end(who)
        child.communicate()
