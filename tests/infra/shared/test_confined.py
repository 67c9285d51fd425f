# SPDX-License-Identifier: Apache-2.0
"""Confined child processes: their rights, their end, and the signals that can hit them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import confined
from waggle.infra.shared.confined import (
    MAX_DESCRIPTORS,
    ConfinedProcess,
    come_forward,
    identify,
    kill_identified,
    leash,
    may_come_forward,
)

pytestmark = pytest.mark.anyio
SLEEP = ("/bin/sleep", "1000")


def start(*argv: str, descriptors: tuple[int, ...] = ()) -> ConfinedProcess:
    return ConfinedProcess.start(argv or SLEEP, descriptors=descriptors, stderr=subprocess.DEVNULL)


def python(code: str, *, descriptors: tuple[int, ...] = ()) -> ConfinedProcess:
    return start(sys.executable, "-c", code, descriptors=descriptors)


async def test_it_is_identified_by_more_than_its_pid() -> None:
    process = start()
    assert process.is_alive
    assert identify(process.identity.pid) == process.identity
    assert await process.kill() == -signal.SIGKILL
    assert not process.is_alive
    assert identify(process.identity.pid) is None
    assert await process.kill() == -signal.SIGKILL


async def test_many_processes_leave_nothing() -> None:
    watch = Leaks()
    for _ in range(5):
        await start().kill()
    await watch.settle()


@pytest.mark.parametrize("code", [0, 7])
async def test_every_waiter_sees_its_status_even_late(code: int) -> None:
    process = python(f"raise SystemExit({code})")
    waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
    cancelled = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await asyncio.gather(*waiting) == [code] * 3
    assert await process.wait() == code


async def test_it_gets_only_its_descriptors_and_little_else(tmp_path: Path) -> None:
    report = tmp_path / "report"
    code = (
        "import os,resource,sys\n"
        "fds = [f for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f)]\n"
        "print(sorted(fds, key=int), sorted(os.environ), os.getcwd(),"
        " os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE),"
        " resource.getrlimit(resource.RLIMIT_NOFILE),"
        " [l.split()[1] for l in open('/proc/self/status') if 'NoNewPrivs' in l],"
        " file=os.fdopen(int(sys.argv[1]), 'w'))"
    )
    number = os.open(report, os.O_WRONLY | os.O_CREAT)
    try:
        argv = (sys.executable, "-c", code, str(number))
        assert await start(*argv, descriptors=(number,)).wait() == 0
    finally:
        os.close(number)
    limits = (MAX_DESCRIPTORS, MAX_DESCRIPTORS)
    assert report.read_text() == (
        f"{['0', '1', '2', str(number)]} ['LANG', 'PATH'] / True (0, 0) {limits} ['1']\n"
    )


async def test_its_enclosure_is_released_when_it_is_dead() -> None:
    calls: list[object] = []

    def enclose(pid: int) -> Callable[[], None]:
        calls.append(pid)
        return lambda: calls.append(identify(pid))

    process = ConfinedProcess.start(
        SLEEP, descriptors=(), stderr=subprocess.DEVNULL, enclose=enclose
    )
    assert calls == [process.identity.pid]
    await process.kill()
    assert calls == [process.identity.pid, None]


async def test_a_process_that_cannot_be_enclosed_is_killed() -> None:
    watch, pids = Leaks(), list[int]()

    def enclose(pid: int) -> Callable[[], None]:
        pids.append(pid)
        raise SetupIncomplete("no room")

    with pytest.raises(SetupIncomplete, match="no room"):
        ConfinedProcess.start(SLEEP, descriptors=(), stderr=subprocess.DEVNULL, enclose=enclose)
    assert identify(pids[0]) is None
    await watch.settle()


async def test_it_dies_with_its_parent() -> None:
    code = (
        "import asyncio, subprocess\n"
        "from waggle.infra.shared.confined import ConfinedProcess\n"
        "async def main():\n"
        " p = ConfinedProcess.start(['/bin/sleep', '1000'], descriptors=(),\n"
        "                           stderr=subprocess.DEVNULL)\n"
        " print(p.identity.pid, flush=True)\n"
        " await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    parent.kill()
    await parent.wait()
    await until(lambda: identify(pid) is None, 2.0)


async def test_a_missing_program_is_an_incomplete_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leash(["x"])[-2:] == ["--", "x"]

    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(SetupIncomplete, match=r"prlimit .* is not installed"):
        start()


async def test_a_child_that_cannot_be_watched_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Leaks()

    def fail(pid: int) -> int:
        raise OSError("no descriptors left")

    monkeypatch.setattr(confined.os, "pidfd_open", fail)
    with pytest.raises(OSError, match="no descriptors left"):
        start()
    await watch.settle()


async def test_only_the_identified_process_is_killed() -> None:
    process = start()
    identity = process.identity
    for other in (
        replace(identity, started=identity.started + 1),
        replace(identity, boot_id="another"),
    ):
        assert not kill_identified(other)
    assert process.is_alive
    assert kill_identified(identity)
    assert await process.wait() == -signal.SIGKILL
    assert not kill_identified(identity)


def test_an_absent_process_has_no_identity() -> None:
    assert identify(2**22 + 1) is None
    assert not kill_identified(confined.VmmProcess(2**22 + 1, 1, "x"))


async def test_a_zombie_has_no_identity() -> None:
    child = subprocess.Popen(["/bin/true"])
    await until(lambda: identify(child.pid) is None)
    assert child.wait() == 0


THREADS = (
    "import threading, time\n"
    "for _ in range(3): threading.Thread(target=time.sleep, args=(1000,)).start()"
)


@pytest.mark.skipif(not may_come_forward(), reason="NOT TESTED: needs CAP_SYS_NICE")
async def test_a_background_process_comes_forward_with_all_its_threads() -> None:
    process = ConfinedProcess.start(
        [sys.executable, "-c", THREADS],
        descriptors=(),
        stderr=subprocess.DEVNULL,
        background=True,
    )
    tasks = Path(f"/proc/{process.identity.pid}/task")
    await until(lambda: len([*tasks.iterdir()]) == 4)
    own = os.getpriority(os.PRIO_PROCESS, 0)

    def priorities() -> set[int]:
        return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks.iterdir()}

    assert priorities() == {min(own + 10, 19)}
    come_forward(process.identity)
    assert priorities() == {own}
    await process.kill()
    come_forward(process.identity)
