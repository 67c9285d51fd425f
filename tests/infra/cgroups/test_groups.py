# SPDX-License-Identifier: Apache-2.0
"""The groups of a server's machines: in a pretended hierarchy, and in the kernel's where it is.

The pretended one is a directory tree: names, files and their texts are as for the kernel, which
alone makes files appear, moves processes and refuses. The lab's machine has the real one
(`./task lab -- --shell-command 'python3 -m pytest tests/infra/cgroups'`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.cgroups.facts import disk_of, read_facts
from waggle.infra.cgroups.groups import Groups
from waggle.infra.cgroups.plan import Nowhere, Place, place
from waggle.infra.confined import ConfinedProcess, identify

SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return tmp_path


def home_of(base: Path) -> Path:
    own = identify(os.getpid())
    assert own is not None
    return base / f"waggle-{own.pid}-{own.started}"


def test_all_of_a_server_are_in_one_group_of_its_own(base: Path) -> None:
    groups = Groups.open(Place(str(base), server_moves=False))
    assert home_of(base).is_dir()
    release = groups.enclose(4711, memory_mib=512, cpus=1)
    machine = home_of(base) / "machine-4711"
    assert (machine / "cgroup.procs").read_text() == "4711"
    shutil.rmtree(machine)  # its files are the kernel's, and go with it
    release()
    assert not (base / "waggle-server").exists()


def test_what_a_dead_server_left_is_swept_and_a_live_ones_is_not(base: Path) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    dead = base / f"waggle-{ended.pid}-12345" / "machine-1"
    reused = base / f"waggle-{os.getpid()}-1" / "machine-1"
    parent = identify(os.getppid())
    assert parent is not None
    live = base / f"waggle-{parent.pid}-{parent.started}" / "machine-1"
    others = base / "waggle-notes-1"
    for each in (dead, reused, live, others):
        each.mkdir(parents=True)
    Groups.open(Place(str(base), server_moves=False))
    for each in (dead, reused):
        assert (each / "cgroup.kill").read_text() == "1", "the kernel would have ended it"
    assert live.is_dir()
    assert not (live / "cgroup.kill").exists()
    assert not (others / "cgroup.kill").exists()


def test_a_server_with_delegation_moves_out_of_its_group(base: Path) -> None:
    Groups.open(Place(str(base), server_moves=True))
    assert (base / "waggle-server" / "cgroup.procs").read_text() == str(os.getpid())


def test_one_that_cannot_be_limited_is_refused(base: Path) -> None:
    groups = Groups.open(Place(str(base), server_moves=False))
    shutil.rmtree(home_of(base))
    with pytest.raises(SetupIncomplete, match="control group") as refused:
        groups.enclose(4711, memory_mib=512, cpus=1)
    assert refused.value.hint


def test_a_disk_is_told_by_its_whole_device(tmp_path: Path) -> None:
    found = disk_of(tmp_path)
    if found is not None:
        assert not Path(f"/sys/dev/block/{found}/partition").exists()
    assert disk_of(Path("/proc")) is None


def test_this_system_is_read_as_it_is() -> None:
    seen = read_facts()
    mounts = Path("/proc/mounts").read_text().splitlines()
    mounted = any(line.split()[2] == "cgroup2" for line in mounts)
    assert bool(seen.mount) is mounted
    if seen.mount:
        top = Path(seen.mount, "cgroup.controllers").read_text().split()
        assert seen.controllers == frozenset(top)


@pytest.fixture
def real() -> Place:
    found = place(read_facts())
    if isinstance(found, Nowhere):
        pytest.skip(f"NOT TESTED: {found.problem}; ./task lab has it")
    return found


HOG = """
import sys
kept = []
for _ in range(4096):
    kept.append(b"x" * (1 << 20))
"""
FORKS = """
import os, sys, time
count = 0
try:
    for _ in range(2000):
        if os.fork() == 0:
            time.sleep(1000)
        count += 1
except BlockingIOError:
    os.write(int(sys.argv[1]), b"%d" % count)
time.sleep(1000)
"""


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_the_kernel_holds_a_machine_to_its_limits(real: Place) -> None:
    groups = Groups.open(real, device=disk_of(Path.cwd()), io_mib=256)
    home = home_of(Path(real.base))
    read, write = os.pipe()
    try:

        def enclose(pid: int):
            return groups.enclose(pid, memory_mib=64, cpus=1)

        def start(*argv: str) -> ConfinedProcess:
            return ConfinedProcess.start(
                argv, descriptors=[write], stderr=subprocess.DEVNULL, enclose=enclose
            )

        quiet = start(*SLEEP)
        group = home / f"machine-{quiet.identity.pid}"
        assert (group / "cgroup.procs").read_text().split() == [str(quiet.identity.pid)]
        assert (group / "memory.max").read_text() == f"{(64 + 512) << 20}\n"
        assert (group / "pids.max").read_text() == "257\n"
        if (group / "cpu.max").exists():
            assert (group / "cpu.max").read_text() == "200000 100000\n"
        await quiet.kill()
        assert not group.exists()
        assert await start(sys.executable, "-c", HOG).wait() == -9, "memory"
        bomb = start(sys.executable, "-c", FORKS, str(write))
        counted = await asyncio.to_thread(os.read, read, 16)
        assert int(counted) == 256
        bombs = home / f"machine-{bomb.identity.pid}"
        (bombs / "cgroup.kill").write_text("1")
        await bomb.wait()
    finally:
        os.close(read)
        os.close(write)
        for _ in range(100):  # the bomb's children are reaped by others
            groups.close()
            if not home.exists():
                break
            await asyncio.sleep(0.05)
    assert not home.exists()
