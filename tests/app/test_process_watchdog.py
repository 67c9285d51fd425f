# SPDX-License-Identifier: Apache-2.0
"""The watchdog: a process ends when its event loop has failed or hangs."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from waggle.app.process import EXIT_CODE

PROGRAM = """
import asyncio, threading, time
import anyio
from waggle.app.process import run

def no_memory(*_args):
    raise MemoryError

async def fails():
    asyncio.get_running_loop()._selector.select = no_memory
    await asyncio.sleep(60)

async def has_no_memory():
    asyncio.get_running_loop().call_soon(no_memory)
    await asyncio.sleep(60)

async def stands_still():
    time.sleep(60)

async def works():
    await asyncio.sleep(2.5)
    await anyio.to_thread.run_sync(lambda: None)
    process = await asyncio.create_subprocess_exec("true")
    print("ended", await process.wait())

async def raises():
    raise LookupError("its own")

threading.Thread(target=time.sleep, args=(CLINGS,)).start()
run(MAIN, dead_after=1)
"""


def ended(main: str, clings: int = 60) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(PROGRAM).replace("MAIN", main).replace("CLINGS", str(clings))
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize(
    "main, why",
    [
        ("fails", "the event loop failed: MemoryError"),
        ("has_no_memory", "the event loop has no memory left"),
        ("stands_still", "the event loop ran no callback for 1 s"),
    ],
)
def test_the_process_ends_with_its_loop_although_a_thread_still_runs(main: str, why: str) -> None:
    done = ended(main)
    assert done.returncode == EXIT_CODE
    assert why in done.stderr
    assert "most recent call first" in done.stderr


def test_a_working_loop_is_left_alone() -> None:
    done = ended("works", clings=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended 0\n", "")


def test_an_exception_of_the_main_function_is_raised() -> None:
    done = ended("raises", clings=0)
    assert done.returncode == 1
    assert "LookupError: its own" in done.stderr
