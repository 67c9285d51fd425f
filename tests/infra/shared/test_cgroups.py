# SPDX-License-Identifier: Apache-2.0
"""The control groups of a server's machines: in a simulated hierarchy, and in the kernel's.

The simulated one is a directory tree with the kernel's names, files and texts; only the kernel
makes files appear, moves processes and refuses. The lab's machine has the real one
(`./task lab -- --shell-command 'python3 -m pytest tests/infra/shared/test_cgroups.py'`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.ordinary import USER

import waggle
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared.cgroups import (
    WANTED,
    Groups,
    Limits,
    Nowhere,
    Place,
    limit,
    place,
    read_facts,
)
from waggle.infra.shared.confined import ConfinedProcess, identify
from waggle.infra.shared.disk_room import disk_of

SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return tmp_path


def home_of(base: Path) -> Path:
    own = identify(os.getpid())
    assert own is not None
    return base / f"waggle-{own.pid}-{own.started}"


def test_all_machines_of_a_server_are_in_its_own_group(base: Path) -> None:
    groups = Groups.open(Place(str(base), server_moves=False))
    assert home_of(base).is_dir()
    release = groups.enclose(4711, memory_mib=512, cpus=1)
    machine = home_of(base) / "machine-4711"
    assert (machine / "cgroup.procs").read_text() == "4711"
    shutil.rmtree(machine)  # its files are the kernel's, and disappear with it
    release()
    assert not (base / "waggle-server").exists()


def test_a_dead_servers_groups_are_swept_and_a_live_ones_are_not(base: Path) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    dead = base / f"waggle-{ended.pid}-12345" / "machine-1"
    reused = base / f"waggle-{os.getpid()}-1" / "machine-1"
    parent = identify(os.getppid())
    assert parent is not None
    live = base / f"waggle-{parent.pid}-{parent.started}" / "machine-1"
    others = base / "waggle-notes-1"
    for group in (dead, reused, live, others):
        group.mkdir(parents=True)
    Groups.open(Place(str(base), server_moves=False))
    for group in (dead, reused):
        assert (group / "cgroup.kill").read_text() == "1", "the kernel would have ended it"
    assert live.is_dir()
    assert not (live / "cgroup.kill").exists()
    assert not (others / "cgroup.kill").exists()


def test_a_server_with_delegation_moves_out_of_its_group(base: Path) -> None:
    Groups.open(Place(str(base), server_moves=True))
    assert (base / "waggle-server" / "cgroup.procs").read_text() == str(os.getpid())


def test_a_machine_that_cannot_be_limited_is_refused(base: Path) -> None:
    groups = Groups.open(Place(str(base), server_moves=False))
    shutil.rmtree(home_of(base))
    with pytest.raises(SetupIncomplete, match="control group") as refused:
        groups.enclose(4711, memory_mib=512, cpus=1)
    assert refused.value.hint


def test_the_disk_rate_is_written_for_the_whole_disk(tmp_path: Path) -> None:
    for name in ("memory.max", "io.max"):  # as the kernel makes them, here without cpu and pids
        (tmp_path / name).touch()
    limit(tmp_path, Limits(memory_mib=512, cpus=1, io_mib=100), "253:16")
    rate = 100 << 20
    written = f"253:16 rbps={rate} wbps={rate} riops=6400 wiops=6400"
    assert (tmp_path / "io.max").read_text() == written
    assert (tmp_path / "memory.max").read_text() == str((512 + 512) << 20)
    assert not (tmp_path / "cpu.max").exists()


def test_a_disk_that_takes_no_limit_does_not_stop_a_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").touch()
    (tmp_path / "io.max").mkdir()  # cannot be written
    limit(tmp_path, Limits(memory_mib=512, cpus=1, io_mib=100), "253:16")
    assert (tmp_path / "memory.max").read_text()
    (tmp_path / "pids.max").mkdir()
    with pytest.raises(OSError, match=r"pids\.max"):
        limit(tmp_path, Limits(memory_mib=512, cpus=1), None)


def test_a_disk_is_identified_by_its_whole_device(tmp_path: Path) -> None:
    found = disk_of(tmp_path)
    if found is not None:
        assert not Path(f"/sys/dev/block/{found}/partition").exists()
    assert disk_of(Path("/proc")) is None


def test_the_facts_match_this_system() -> None:
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
async def test_the_kernel_enforces_a_machines_limits(real: Place) -> None:
    device = disk_of(Path.cwd())
    groups = Groups.open(real, device=device, io_mib=256)
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
        if device and (group / "io.max").exists():
            rate = 256 << 20
            written = f"{device} rbps={rate} wbps={rate} riops=16384 wiops=16384\n"
            assert (group / "io.max").read_text() == written
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
        groups.close()
    assert not home.exists()


def test_the_groups_of_a_dead_server_are_gone_after_a_start_with_all_that_lived_in_them(
    real: Place,
) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    group = Path(real.base) / f"waggle-{ended.pid}-12345" / "machine-1"
    group.mkdir(parents=True)
    with subprocess.Popen(SLEEP) as left:
        try:
            (group / "cgroup.procs").write_text(str(left.pid))
            groups = Groups.open(real)
            try:
                assert left.wait(5) == -9
                assert not group.parent.exists()
            finally:
                groups.close()
        finally:
            left.kill()


WRITER = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
piece = mmap.mmap(-1, 1 << 20)
sys.stdin.read(1)
for at in range(4):
    os.pwrite(file, piece, at << 20)
"""


@pytest.mark.timeout(120)
def test_the_kernel_enforces_a_machines_disk_rate(real: Place, tmp_path: Path) -> None:
    device = disk_of(tmp_path)
    if device is None or "io" in real.unlimited:
        pytest.skip("NOT TESTED: no disk below the files here, or no io controller for it")
    groups = Groups.open(real, device=device, io_mib=1)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "file")], stdin=subprocess.PIPE
    )
    release = groups.enclose(writer.pid, memory_mib=64, cpus=1)
    try:
        began = time.monotonic()
        writer.communicate(b"x")
        assert writer.returncode == 0
        assert time.monotonic() - began > 2.5, "4 MiB at 1 MiB a second"
    finally:
        writer.kill()
        writer.wait()
        release()
        groups.close()


DELEGATED = """
import json, subprocess
from pathlib import Path
from waggle.infra.shared.cgroups import read_facts
from waggle.infra.shared.cgroups import Groups
from waggle.infra.shared.cgroups import own_of, place

def own(pid):
    return own_of(Path(f"/proc/{pid}/cgroup").read_text())

found = place(read_facts())
groups = Groups.open(found)
child = subprocess.Popen(["/bin/sleep", "1000"])
release = groups.enclose(child.pid, memory_mib=64, cpus=1)
machine = Path(read_facts().mount + own(child.pid))
report = {
    "base": found.base, "moves": found.server_moves,
    "server": own("self"), "machine": own(child.pid),
    "memory": (machine / "memory.max").read_text(), "pids": (machine / "pids.max").read_text(),
}
child.kill()
child.wait()
release()
groups.close()
print(json.dumps(report | {"left": machine.parent.exists()}))
"""


@pytest.mark.timeout(120)
def test_a_user_service_limits_its_machines_in_its_delegated_group() -> None:
    """As systemd does for Delegate=yes: the service is alone in a group that its user owns."""
    seen = read_facts()
    if os.geteuid() != 0 or isinstance(place(seen), Nowhere) or not seen.may_use_top:
        pytest.skip("NOT TESTED: needs root and cgroup v2 with memory and pids; ./task lab has it")
    for name in WANTED:
        with contextlib.suppress(OSError):
            Path(seen.mount, "cgroup.subtree_control").write_text(f"+{name}")
    service = Path(seen.mount, f"waggle-test-{os.getpid()}.service")
    service.mkdir()
    try:
        for path in (service, service / "cgroup.procs", service / "cgroup.subtree_control"):
            os.chown(path, USER, USER)
        enter = (
            'echo $$ > "$0/cgroup.procs" && exec setpriv --reuid="$1" --regid="$1" --clear-groups'
        )
        done = subprocess.run(
            ["sh", "-c", f'{enter} "$2" -c "$3"', service, str(USER), sys.executable, DELEGATED],
            env={"PYTHONPATH": str(Path(waggle.__file__).parents[1]), "HOME": "/nonexistent"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    finally:
        for group in (*service.glob("*"), service):
            if group.is_dir():
                group.rmdir()
    report = json.loads(done.stdout)
    assert (report["base"], report["moves"], report["left"]) == (str(service), True, False)
    assert report["server"] == f"/{service.name}/waggle-server"
    assert report["machine"].startswith(f"/{service.name}/waggle-")
    assert (report["memory"], report["pids"]) == (f"{(64 + 512) << 20}\n", "257\n")
