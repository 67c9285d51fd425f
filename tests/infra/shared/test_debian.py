# SPDX-License-Identifier: Apache-2.0
"""The choice of a mirror, the arguments of mmdebstrap, and the execution of build tools."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import anyio
import pytest
from tests.support.leaks import Leaks
from tests.support.programs import program
from tests.support.waiting import cancelled

from waggle.domain.errors import DiskFull, SetupIncomplete
from waggle.infra.shared import debian

MIRROR = "http://mirror.example/debian"


def test_the_configured_mirror_comes_first(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt/sources.list").write_text("deb http://other.example/debian trixie main\n")
    assert debian.mirror(MIRROR, tmp_path) == MIRROR


def test_the_hosts_own_mirror_comes_second(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt/sources.list").write_text(f"deb {MIRROR} trixie main\n")
    assert debian.mirror(None, tmp_path) == MIRROR


def test_without_a_host_mirror_mmdebstraps_is_used(tmp_path: Path) -> None:
    program("mmdebstrap")
    found = debian.mirror(None, tmp_path)
    assert re.fullmatch(r"https?://\S+/debian", found)
    assert found == debian.default_archive("sid")


def test_the_command_checks_signatures_but_not_dates() -> None:
    argv = debian.tree_argv(
        MIRROR, suite="sid", packages=["a", "b"], hooks=["--x"], options=["--y"]
    )
    assert argv[0] == "mmdebstrap"
    assert "--include=a,b" in argv
    assert '--aptopt=Acquire::Check-Valid-Until "false"' in argv
    assert not any("trusted" in word or "allow" in word.lower() for word in argv)
    assert argv[-3:] == ["sid", "-", f"deb {MIRROR} sid main"]
    assert argv.index("--x") < argv.index("--y") < argv.index("sid")


@pytest.mark.anyio
async def test_a_tools_lines_are_reported_as_they_arrive() -> None:
    lines: list[str] = []
    code = (
        r"import sys; sys.stdout.write('one\ntwo\rthree\n' + 'x' * 200000 + '\nlast'); sys.exit(0)"
    )
    await debian.run([sys.executable, "-c", code], lines.append)
    assert lines[:3] == ["one", "two", "three"]
    assert lines[-1] == "last"
    assert all(len(line) <= 16 * 1024 for line in lines)


@pytest.mark.anyio
async def test_a_tool_starts_in_a_directory_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home with mode 0700 is closed to the users that an ordinary user maps for mmdebstrap."""
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    await debian.run(["pwd"], lines.append)
    assert lines == ["/"]


@pytest.mark.anyio
async def test_a_failure_shows_the_last_lines() -> None:
    code = "import sys; [print('line', n) for n in range(100)]; sys.exit('why')"
    with pytest.raises(SetupIncomplete, match=r"failed \(1\): line 8\d .*\| why"):
        await debian.run([sys.executable, "-u", "-c", code])


@pytest.mark.anyio
async def test_a_missing_tool_is_named() -> None:
    with pytest.raises(SetupIncomplete, match="no-such-tool is not installed"):
        await debian.run(["no-such-tool"])


POLITE = """
import signal, subprocess, sys, time
def clean(*_):
    open(sys.argv[1], 'w').close()
    sys.exit(1)
signal.signal(signal.SIGTERM, clean)
subprocess.Popen(['sleep', '1000'])
print('started', flush=True)
time.sleep(1000)
"""


async def _run_until_printed(argv: list[str], printed: asyncio.Event) -> None:
    await debian.run(argv, lambda _line: printed.set())


@pytest.mark.anyio
async def test_cancelling_lets_the_tool_clean_up_and_ends_its_children(tmp_path: Path) -> None:
    watch = Leaks()
    started = asyncio.Event()
    argv = [sys.executable, "-c", POLITE, str(tmp_path / "cleaned")]

    async with anyio.create_task_group() as group:
        group.start_soon(_run_until_printed, argv, started)
        await started.wait()
        group.cancel_scope.cancel()
    assert (tmp_path / "cleaned").exists()
    await watch.settle()


@pytest.mark.anyio
async def test_a_tool_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "GRACE_SECONDS", 0.2)
    watch = Leaks()
    started = asyncio.Event()
    argv = ["/bin/sh", "-c", "trap '' TERM; echo started; while :; do sleep 1000; done"]
    task = asyncio.create_task(debian.run(argv, lambda _line: started.set()))
    await started.wait()
    await cancelled(task)
    await watch.settle()


@pytest.mark.anyio
async def test_a_tool_that_meets_a_full_disk_reports_only_that() -> None:
    full = "echo unpacking; dd if=/dev/zero of=/dev/full bs=1 count=1; exit 3"
    with pytest.raises(DiskFull, match=r"^sh met a full disk: unpacking \| .*No space left"):
        await debian.run(["sh", "-c", full], environment={**os.environ, "LC_ALL": "C"})
    with pytest.raises(SetupIncomplete, match="failed"):
        await debian.run(["sh", "-c", "echo unpacking; exit 3"])


@pytest.mark.anyio
async def test_a_killed_tools_mounts_are_gone(tmp_path: Path) -> None:
    if not debian.own_mounts():
        pytest.skip("NOT TESTED: this user may not mount, so its tools cannot leave a mount")
    started = asyncio.Event()
    mounted = "echo $$; mount -t tmpfs none $0 && grep -c $0 /proc/self/mounts && sleep 1000"
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            started.set()

    task = asyncio.create_task(debian.run(["sh", "-c", mounted, str(tmp_path)], hear))
    await asyncio.wait_for(started.wait(), 30)
    assert lines[1] == "1"
    os.killpg(int(lines[0]), signal.SIGKILL)
    with pytest.raises(SetupIncomplete):
        await task
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
