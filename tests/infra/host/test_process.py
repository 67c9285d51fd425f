# SPDX-License-Identifier: Apache-2.0
"""Child processes: bounded output, deadlines, and the end of whole process groups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from pathlib import Path

import anyio
import pytest
from tests.support.waiting import cancelled

from waggle.domain.errors import SetupIncomplete, TimedOut
from waggle.infra.host import process

pytestmark = pytest.mark.anyio


class TestRun:
    async def test_returns_both_outputs_and_the_code(self) -> None:
        done = await process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10)
        assert (done.code, done.stdout, done.stderr, done.ok) == (3, b"out\n", b"err\n", False)

    async def test_a_signal_is_a_negative_code(self) -> None:
        done = await process.run(["sh", "-c", "kill -9 $$"], timeout=10)
        assert done.code == -signal.SIGKILL

    async def test_a_program_reads_the_end_of_its_input_at_once(self) -> None:
        assert (await process.run(["cat"], timeout=10)).ok

    async def test_keeps_the_tail_of_a_flood(self) -> None:
        code = "import sys; sys.stdout.write('x' * 3_000_000 + 'end')"
        done = await process.run([sys.executable, "-c", code], timeout=30)
        assert done.stdout == b"x" * (process.KEPT_OUTPUT - 3) + b"end"

    async def test_arguments_are_never_read_by_a_shell(self) -> None:
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
        await cancelled(running)
        await gone(child)

    @pytest.mark.parametrize("steps", range(12))
    async def test_cancelling_at_any_time_of_the_start_leaves_nothing(
        self, tmp_path: Path, steps: int
    ) -> None:
        mark = f"{tmp_path}-{steps}"
        argv = ["sh", "-c", 'sh -c "sleep 1000; :" $0 & wait', mark]
        running = asyncio.ensure_future(process.run(argv, timeout=60))
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 10)
        for pid in processes_with(mark):
            await gone(pid)

    async def test_a_cancel_scope_waits_until_nothing_is_left(self, tmp_path: Path) -> None:
        argv = ["sh", "-c", 'sh -c "sleep 1000; :" $0 & wait', str(tmp_path)]
        with anyio.move_on_after(0.2) as scope:
            await process.run(argv, timeout=60)
        assert scope.cancelled_caught
        for pid in processes_with(str(tmp_path)):
            await gone(pid)

    async def test_last_words_hold_no_control_characters(self) -> None:
        done = await process.run(["printf", r"a\nb\033[31mc\n"], timeout=10)
        assert done.last_words(1) == "b?[31mc"


def processes_with(mark: str) -> list[int]:
    """Return the pids of the processes that have `mark` on their command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


async def gone(pid: int) -> None:
    """Wait until the orphan is dead; SIGKILL takes effect shortly after it was sent."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # A pidfd is readable once its process is dead.
        assert select.select([descriptor], [], [], 5)[0], f"{pid} still runs"
    finally:
        os.close(descriptor)
