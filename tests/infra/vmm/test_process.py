# SPDX-License-Identifier: Apache-2.0
"""A VMM and its guard end together, whoever ends first; a busybox stands for the VMM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from tests.infra.vmm.guarded import as_root, guarded, jailer
from tests.support.held_threads import held_threads
from tests.support.leaks import Leaks, children
from tests.support.waiting import cancelled, until

from waggle.domain.machine import VmmProcess
from waggle.infra.shared.confined import identify
from waggle.infra.vmm.process import GuardedProcess

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
FOREVER = "while :; do read x </run/none 2>/dev/null; done"
LARGE = "x=1; while [ ${#x} -lt 100000000 ]; do x=$x$x; done; >/run/large; "
"""Takes memory that the kernel frees for some time."""
SERVER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.infra.vmm.guarded import guarded

async def main():
    async with guarded(Path(sys.argv[1]), sys.argv[3]) as it:
        await it.process.until_known()
        print(it.process.identity.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_begins_only_once_what_it_may_connect_to_is_there(tmp_path: Path) -> None:
    async with guarded(tmp_path, "read x </run/door; echo $x", proceeds=False) as it:
        assert await it.process.until_known()
        Path(f"/proc/self/fd/{it.process.run}/door").write_text("open\n")
        it.process.proceed()
        assert await it.said() == "open\n"


async def test_one_that_has_to_wait_can_be_ended(tmp_path: Path) -> None:
    leaks = Leaks()
    async with guarded(tmp_path, FOREVER, proceeds=False) as it:
        assert await it.process.until_known()
        async with asyncio.timeout(20):
            assert await it.process.kill() == -signal.SIGKILL
        assert await it.said() == ""
    await leaks.settle()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_its_identity_is_the_vmms_and_not_the_guards(tmp_path: Path) -> None:
    leaks = Leaks()
    async with guarded(tmp_path, FOREVER) as it:
        guard = it.process.identity.pid
        assert await it.process.until_known()
        assert await it.process.until_known()
        vmm = it.process.identity
        assert identify(vmm.pid) == vmm
        assert parent_of(vmm.pid) == guard
        assert it.process.is_alive
    await leaks.settle()


async def test_kill_ends_both_and_may_be_repeated(tmp_path: Path) -> None:
    async with guarded(tmp_path, FOREVER) as it:
        guard = it.process.identity.pid
        assert await it.process.until_known()
        vmm = it.process.identity.pid
        assert await it.process.kill() == await it.process.kill() == -signal.SIGKILL
        assert identify(vmm) is identify(guard) is None
        assert not it.process.is_alive


async def test_its_files_in_memory_are_not_freed_on_the_event_loop(tmp_path: Path) -> None:
    async with guarded(tmp_path, FOREVER) as it:
        assert await it.process.until_known()
        run = it.process.run
        await it.process.kill()
        with held_threads():
            it.process.close()
            assert it.process.run < 0
            os.fstat(run)


async def test_a_vmm_that_is_not_known_yet_is_killed_with_its_guard(tmp_path: Path) -> None:
    leaks = Leaks()
    for steps in (0, 1, 3):
        async with guarded(tmp_path, FOREVER) as it:
            for _ in range(steps):
                await asyncio.sleep(0.02)  # so that the guard is somewhere in its start
            await it.process.kill()
            assert not it.process.is_alive
    await leaks.settle()


@pytest.mark.parametrize(
    "script, status", [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$; " + FOREVER, -9)]
)
async def test_the_guard_ends_as_the_vmm_did(tmp_path: Path, script: str, status: int) -> None:
    async with guarded(tmp_path, script) as it:
        await it.process.until_known()
        if status < 0:  # the first process of a namespace is hit only from without
            it.process.send_signal(-status)
        assert await it.process.wait() == status


async def test_a_guard_that_was_killed_alone_takes_the_vmm_along(tmp_path: Path) -> None:
    async with guarded(tmp_path, FOREVER) as it:
        guard = it.process.identity.pid
        assert await it.process.until_known()
        vmm = it.process.identity.pid
        os.kill(guard, signal.SIGKILL)
        assert await it.process.wait() == -signal.SIGKILL
        assert identify(vmm) is None


async def test_their_end_is_the_vmms_although_the_guard_ends_first(tmp_path: Path) -> None:
    """A VMM whose memory is being freed still has its disk, and its control group is busy."""
    found: list[VmmProcess | None] = []

    def enclose(_: int) -> Callable[[], None]:
        return lambda: found.append(identify(vmm.pid))

    async with guarded(tmp_path, LARGE + FOREVER, enclose=enclose) as it:
        assert await it.process.until_known()
        vmm, guard = it.process.identity, parent_of(it.process.identity.pid)
        await until(lambda: Path(f"/proc/self/fd/{it.process.run}/large").exists())
        os.kill(guard, signal.SIGKILL)
        assert await it.process.kill() == -signal.SIGKILL
        assert identify(vmm.pid) is None
    assert found == [None]


def child_of(pid: int) -> int:
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if parent_of(int(one.name)) == pid:
                return int(one.name)
    return 0


@as_root
async def test_a_guard_that_was_killed_before_its_vmm_was_known_takes_it_along(
    tmp_path: Path,
) -> None:
    (tmp_path / "machine").mkdir()
    jail = jailer(tmp_path, FOREVER)
    async with guarded(tmp_path / "machine", "", jailer=jail) as it:
        guard = it.process.identity.pid

        def runs() -> bool:
            argv = Path(f"/proc/{child_of(guard) or guard}/cmdline").read_bytes()
            return b"programs/jailer" in argv.split(b"\0")

        await until(runs)
        vmm = child_of(guard)
        try:
            os.kill(guard, signal.SIGKILL)
            assert await it.process.wait() == -signal.SIGKILL
            await until(lambda: identify(vmm) is None)
        finally:
            if identify(vmm):
                os.kill(vmm, signal.SIGKILL)


async def test_a_vmm_that_has_ended_and_was_reaped_is_not_known(tmp_path: Path) -> None:
    """Its number may be another process's by then."""
    async with guarded(tmp_path, "exit 0") as it:
        guard = it.process.identity
        await it.process.wait()
        assert not await it.process.until_known()
        assert it.process.identity == guard


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_both_end_with_the_server(tmp_path: Path, number: int) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(tmp_path), str(Path(__file__).parents[3]), FOREVER),
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    vmm = int(await server.stdout.readline())
    guard = parent_of(vmm)
    try:
        server.send_signal(number)
        await server.wait()
        await until(lambda: identify(vmm) is identify(guard) is None)
    finally:
        for pid in (vmm, guard):
            if identify(pid):
                os.kill(pid, signal.SIGKILL)


class Failing(GuardedProcess):
    """Its guard ends before it can be told anything."""

    @classmethod
    def start(cls, argv: Sequence[str], **others: Any) -> Self:
        made = super().start(["sh", "-c", "echo no module named waggle >&2; exit 7"], **others)
        os.waitid(os.P_PID, made.identity.pid, os.WEXITED | os.WNOWAIT)
        return made


async def test_a_guard_that_ends_at_once_says_why(tmp_path: Path) -> None:
    async with guarded(tmp_path, "exit 0", process=Failing) as it:
        assert not await it.process.until_known()
        assert await it.process.wait() == 7
        assert await it.said() == "no module named waggle\n"


async def test_waiting_for_it_may_be_cancelled(tmp_path: Path) -> None:
    async with guarded(tmp_path, FOREVER) as it:
        waiting = asyncio.create_task(it.process.until_known())
        await asyncio.sleep(0)
        await cancelled(waiting)
        assert await it.process.until_known()


async def test_both_are_limited_before_the_vmm_begins(tmp_path: Path) -> None:
    """`enclose` sees the guard while it has no child yet, so the child is born enclosed."""
    seen: list[list[str]] = []
    freed: list[int] = []

    def enclose(pid: int) -> Callable[[], None]:
        seen.append(children(pid))
        return lambda: freed.append(pid)

    async with guarded(tmp_path, "exit 0", enclose=enclose) as it:
        await it.process.wait()
    assert seen == [[]]
    assert len(freed) == 1
