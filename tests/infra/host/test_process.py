# SPDX-License-Identifier: Apache-2.0
"""Child processes: bounded output, deadlines, whole groups ended, identity beyond the pid."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from waggle.domain.errors import SetupIncomplete, TimedOut
from waggle.infra.host import process

pytestmark = pytest.mark.anyio


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)


class TestRun:
    async def test_returns_both_outputs_and_the_code(self) -> None:
        done = await process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10)
        assert (done.code, done.stdout, done.stderr, done.ok) == (3, b"out\n", b"err\n", False)

    async def test_a_signal_is_a_negative_code(self) -> None:
        done = await process.run(["sh", "-c", "kill -9 $$"], timeout=10)
        assert done.code == -signal.SIGKILL

    async def test_feeds_stdin_also_to_a_program_that_does_not_read_it(self) -> None:
        done = await process.run(["cat"], timeout=10, stdin=b"\0\xff")
        assert done.stdout == b"\0\xff"
        assert (await process.run(["true"], timeout=10, stdin=b"x" * 1_000_000)).ok

    async def test_keeps_the_tail_of_a_flood(self) -> None:
        code = "import sys; sys.stdout.write('x' * 3_000_000 + 'end')"
        done = await process.run([sys.executable, "-c", code], timeout=30, keep=100)
        assert done.stdout == b"x" * 97 + b"end"

    async def test_uses_the_given_environment_and_directory(self, tmp_path: Path) -> None:
        done = await process.run(
            ["/bin/sh", "-c", "echo $ONLY; pwd"], timeout=10, env={"ONLY": "this"}, cwd=tmp_path
        )
        assert done.stdout.decode().split() == ["this", str(tmp_path)]

    async def test_words_are_never_read_by_a_shell(self) -> None:
        done = await process.run(["echo", "$(id);", "`id`"], timeout=10)
        assert done.stdout == b"$(id); `id`\n"

    async def test_a_missing_program_says_so(self) -> None:
        with pytest.raises(SetupIncomplete, match="no-such-program cannot be started"):
            await process.run(["no-such-program"], timeout=10)

    async def test_a_deadline_ends_the_whole_group(self, tmp_path: Path) -> None:
        script = f"sleep 1000 & echo $! > {tmp_path}/child; wait"
        with pytest.raises(TimedOut, match=r"sh did not end within 0\.3 s"):
            await process.run(["sh", "-c", script], timeout=0.3)
        await gone(int((tmp_path / "child").read_text()))

    async def test_cancelling_ends_the_whole_group(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        running = asyncio.ensure_future(
            process.run(["sh", "-c", f"sleep 1000 & echo $! > {fifo}; wait"], timeout=60)
        )
        child = int(await asyncio.to_thread(fifo.read_text))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await gone(child)

    async def test_last_words_hold_no_control_characters(self) -> None:
        done = await process.run(["printf", r"a\nb\033[31mc\n"], timeout=10)
        assert done.last_words(1) == "b?[31mc"


async def gone(pid: int) -> None:
    """Wait until the orphan is dead; SIGKILL takes effect a moment after it was sent."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert await process._exited(descriptor, 5)
    finally:
        os.close(descriptor)


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
