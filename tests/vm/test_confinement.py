# SPDX-License-Identifier: Apache-2.0
"""The rights of a VMM on the host: almost none, and none after the server's death."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.support.vm import Lab
from tests.support.waiting import until

from waggle.domain.machine import VmmProcess
from waggle.infra.shared.confined import MAX_DESCRIPTORS, identify
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import is_root

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
ROOT = Path(__file__).parents[2]
DEATH_SECONDS = 2.0


def proc(guest: LocalGuest) -> Path:
    return Path(f"/proc/{guest.machine.pid}")


def status(guest: LocalGuest) -> dict[str, str]:
    rows = (line.partition(":") for line in (proc(guest) / "status").read_text().splitlines())
    return {name: value.strip() for name, _, value in rows}


async def test_the_vmm_has_no_rights_and_can_gain_none(guest: LocalGuest) -> None:
    rows = status(guest)
    assert rows["NoNewPrivs"] == "1"
    assert rows["Seccomp"] == "2"
    if is_root():
        assert all(int(uid) >= 1_900_000_000 for uid in rows["Uid"].split())
        assert set(rows["Gid"].split()) == set(rows["Uid"].split())
        assert rows["Groups"] == ""
    for capabilities in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(rows[capabilities], 16) == 0


async def test_each_machine_has_its_own_user(lab: Lab) -> None:
    first, second = await asyncio.gather(lab.guest(), lab.guest())
    if is_root():
        assert status(first)["Uid"] != status(second)["Uid"]


async def test_the_vmm_has_its_own_session_variables_and_directory(guest: LocalGuest) -> None:
    pid = guest.machine.pid
    assert os.getsid(pid) == os.getpgid(pid) == pid
    variables = (proc(guest) / "environ").read_bytes().split(b"\0")[:-1]
    assert sorted(line.partition(b"=")[0] for line in variables) == [b"LANG", b"PATH"]
    assert (proc(guest) / "cwd").readlink() == Path("/")


async def test_the_vmm_has_resource_limits(guest: LocalGuest) -> None:
    rows = (proc(guest) / "limits").read_text().splitlines()
    found = {row[:25].strip(): row[25:].split()[:2] for row in rows}
    assert found["Max core file size"] == ["0", "0"]
    assert found["Max open files"] == [str(MAX_DESCRIPTORS)] * 2


async def test_the_vmm_holds_only_its_disks_and_sockets(guest: LocalGuest, shared_lab: Lab) -> None:
    opened = [str(entry.readlink()) for entry in (proc(guest) / "fd").iterdir()]
    files = {name for name in opened if name.startswith("/") and not name.startswith("/dev/")}
    own = {path for path in files if path.startswith(str(shared_lab.environments))}
    assert {Path(path).name for path in own} == {"scratch.img", "identity.img"}
    shared = {Path(path).suffix for path in files - own}
    assert shared <= {".elf", ".erofs"}
    # QEMU 10 has many more eventfds, the doorbells of its devices, which lead nowhere.
    assert len([name for name in opened if name != "anon_inode:[eventfd]"]) < 64


async def test_the_vmm_listens_on_one_port_of_its_own_loopback(guest: LocalGuest) -> None:
    net = proc(guest) / "net"
    rows = [line.split() for line in (net / "tcp").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A"]
    assert listening == [f"0200007F:{guest.ssh_port:04X}"]
    for others in ("tcp6", "udp", "raw", "packet"):
        assert len((net / others).read_text().splitlines()) == 1, others
    interfaces = (net / "dev").read_text().splitlines()[2:]
    assert [row.partition(":")[0].strip() for row in interfaces] == ["lo"]


async def test_the_vmm_has_its_own_namespaces(guest: LocalGuest) -> None:
    for name in ("mnt", "net", "ipc", "uts"):
        own, ours = (proc(guest) / "ns" / name).readlink(), Path(f"/proc/self/ns/{name}").readlink()
        assert own != ours, name


async def test_the_vmm_sees_its_program_libraries_and_firmware_and_no_host_file(
    guest: LocalGuest,
) -> None:
    mounts = (proc(guest) / "mounts").read_text().splitlines()
    shown = {line.split()[1] for line in mounts}
    rights = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert "/" in shown
    assert all("ro" in flags for place, flags in rights.items() if not place.startswith("/proc"))
    visible = proc(guest) / "root"
    for hidden in ("etc/passwd", "home", "root", "tmp", "var", "run", "sys", "usr/bin/env", "bin"):
        assert not (visible / hidden).exists(), hidden


async def test_the_vmm_is_killed_before_the_server_when_memory_runs_out(guest: LocalGuest) -> None:
    score = int((proc(guest) / "oom_score_adj").read_text())
    assert score == 500 > int(Path("/proc/self/oom_score_adj").read_text())


async def test_it_dies_with_the_server(lab: Lab) -> None:
    directory = lab.directory / "other"
    directory.mkdir(mode=0o755)
    image = lab.images.known["busybox"].disk
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.vm.boot_and_wait"),
        *(str(path) for path in (directory, lab.parts.kernel, lab.parts.kit, image)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    pid, started, boot = (await server.stdout.readline()).decode().split()
    machine = VmmProcess(int(pid), int(started), boot)
    assert identify(machine.pid) == machine
    server.send_signal(signal.SIGKILL)
    await until(lambda: identify(machine.pid) != machine, DEATH_SECONDS)
    assert await server.wait() == -signal.SIGKILL
