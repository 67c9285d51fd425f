# SPDX-License-Identifier: Apache-2.0
"""What a VMM finds below its guard, and what it cannot reach, by a script in its place."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.infra.vmm.guarded import BUSYBOX, UID, as_root, guarded, jailer
from tests.support.waiting import until

from waggle.infra.shared import landlock
from waggle.infra.shared.confined import python_argv
from waggle.infra.vmm.process import STARTER, Start
from waggle.infra.vmm.starter import FAILED, SAYS, jailer_argv

if TYPE_CHECKING:
    from waggle.infra.vmm.starter import Plan

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


class Replaced(Start):
    """The plan of a server whose file became another one before the starter opened it."""

    def plan(self, parent: int) -> Plan:
        made = super().plan(parent)
        made["files"][0]["identity"] = (0, 0)
        return made


async def test_it_sees_its_files_at_constant_paths_and_nothing_else(tmp_path: Path) -> None:
    has_kvm = Path("/dev/kvm").exists()
    async with guarded(tmp_path, "for x in /* /dev/*; do echo $x; done") as it:
        seen = (await it.said()).split()
        assert await it.process.wait() == 0
    assert seen == [
        *("/dev", "/kernel", "/proc", "/run", "/scratch", "/vmm"),
        *(["/dev/kvm"] if has_kvm else []),
        "/dev/urandom",
    ]


async def test_it_may_write_what_is_its_own_only(tmp_path: Path) -> None:
    places = "/kernel /scratch /new /run/new /proc/new /dev/new"
    script = f"for x in {places}; do {{ echo 1 >$x; }} && echo wrote $x; done"
    async with guarded(tmp_path, script) as it:
        said = (await it.said()).splitlines()
    assert [line for line in said if not line.startswith("sh: ")] == [
        "wrote /scratch",
        "wrote /run/new",
    ], said
    assert (tmp_path / "scratch").read_bytes() == b"1\n"
    assert (tmp_path / "kernel").read_bytes() == b"kernel"


@pytest.mark.skipif(not landlock.version(), reason="NOT TESTED: this kernel has no Landlock")
async def test_what_no_mount_forbids_landlock_does(tmp_path: Path) -> None:
    """Its own entry in /proc can be written as far as the mounts go."""
    script = (
        "{ echo 900 >/proc/self/oom_score_adj; } && echo wrote; read x </proc/self/comm; echo $x"
    )
    async with guarded(tmp_path, script) as it:
        said = (await it.said()).splitlines()
    assert said == ["sh: can't create /proc/self/oom_score_adj: Permission denied", "vmm"]


async def test_its_run_is_the_servers_and_holds_so_much(tmp_path: Path) -> None:
    script = (
        "echo 1 >/run/told; while [ ! -e /run/answer ]; do :; done; read x </run/answer; echo $x"
    )
    async with guarded(tmp_path, script) as it:
        assert await it.process.until_known()
        run = Path(f"/proc/self/fd/{it.process.run}")
        await until((run / "told").exists)
        (run / "whole").write_text("heard\n")
        (run / "whole").chmod(0o444)
        (run / "whole").rename(run / "answer")
        assert await it.said() == "heard\n"
        size = os.statvfs(run)
        assert size.f_blocks * size.f_frsize == 1 << 20
        assert size.f_files <= 64
    assert {path.name for path in tmp_path.iterdir()} == {"kernel", "scratch"}


@as_root
async def test_a_jail_holds_so_many_files(tmp_path: Path) -> None:
    """The jailer leaves the root to the VMM, which may write there."""
    (tmp_path / "machine").mkdir()
    jail = jailer(tmp_path, "/bin/busybox stat -f -c '%c %d' busybox/test-1/root")
    async with guarded(tmp_path / "machine", "", jailer=jail) as it:
        most, free = map(int, (await it.said()).split())
    assert 32 <= free < most <= 256


async def test_texts_are_made_for_it_and_it_cannot_change_them(tmp_path: Path) -> None:
    script = "read x </machine.json; echo $x; { echo 1 >/machine.json; } && echo wrote"
    async with guarded(tmp_path, script, texts={"machine.json": "{}\n"}) as it:
        said = (await it.said()).splitlines()
    assert said[0] == "{}"
    assert "wrote" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"kernel", "scratch"}


@as_root
async def test_texts_are_in_its_jail_too(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    jail = jailer(tmp_path, "/bin/busybox cat busybox/test-1/root/machine.json")
    async with guarded(tmp_path / "machine", "", jailer=jail, texts={"machine.json": "{}"}) as it:
        assert await it.said() == "{}"


async def test_its_standard_input_is_the_memory_that_it_was_given(tmp_path: Path) -> None:
    async with guarded(tmp_path, "read x </proc/self/fd/0; echo $x") as it:
        assert await it.said() == "remembered\n"


async def test_memory_that_is_a_file_of_the_hosts_can_be_opened_anew_and_not_written(
    tmp_path: Path,
) -> None:
    """By no path: its directory is the server's alone. Its VMM has another user's id."""
    (tmp_path / "closed").mkdir(mode=0o700)
    memory = tmp_path / "closed" / "ram"
    memory.write_text("on the disk")
    memory.chmod(0o644)
    script = "read x </proc/self/fd/0; echo $x; { echo 1 >/proc/self/fd/0; } && echo wrote"
    with memory.open("rb") as opened:
        async with guarded(tmp_path, script, memory=opened.fileno()) as it:
            said = (await it.said()).splitlines()
    assert said[0] == "on the disk"
    assert "wrote" not in said
    assert memory.read_text() == "on the disk"


async def test_it_has_no_other_descriptor_of_the_guards_or_the_servers(tmp_path: Path) -> None:
    """The one beyond those three is the directory that it lists here."""
    async with guarded(tmp_path, "for x in /proc/self/fd/*; do echo ${x##*/}; done") as it:
        said = await it.said()
    assert [int(line) for line in said.split()][:3] == [0, 1, 2]
    assert len(said.split()) <= 4, said


async def test_it_is_the_first_process_of_its_own_and_can_start_no_other(tmp_path: Path) -> None:
    async with guarded(tmp_path, "echo $$ /proc/[0-9]*; (:); echo forked") as it:
        said = await it.said()
    assert said.splitlines()[0] in ("1 /proc/1", "1 /proc/[0-9]*")
    if platform.machine() == "x86_64":
        assert "forked" not in said
        assert "can't fork: Operation not permitted" in said


async def test_it_has_a_network_of_its_own(tmp_path: Path) -> None:
    script = 'while read x; do echo "$x"; done </proc/self/net/dev'
    async with guarded(tmp_path, script) as it:
        rows = (await it.said()).splitlines()[2:]
    assert [row.split(":")[0] for row in rows] == ["lo"]


@as_root
async def test_it_has_its_user_and_no_rights(tmp_path: Path) -> None:
    script = 'while read x y; do echo "$x $y"; done </proc/self/status'
    async with guarded(tmp_path, script) as it:
        rows = dict(line.split(" ", 1) for line in (await it.said()).splitlines() if " " in line)
    assert set(rows["Uid:"].split()) == set(rows["Gid:"].split()) == {str(UID)}
    assert {rows[name] for name in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:")} == {"0" * 16}
    assert rows["NoNewPrivs:"] == "1"
    if platform.machine() == "x86_64":
        assert rows["Seccomp:"] == "2"


async def test_a_server_that_is_not_root_gives_it_a_user_namespace(tmp_path: Path) -> None:
    """Root here, when the tests run as root."""
    rights = "while read x y; do echo $x $y; done </proc/self/status"
    script = f"read x </proc/self/uid_map; echo $x; {rights}"
    async with guarded(tmp_path, script, uid=None) as it:
        said = await it.said()
    assert said.splitlines()[0].split() == [str(os.getuid()), str(os.getuid()), "1"]
    assert "CapEff: 0000000000000000" in said


async def test_files_that_were_replaced_meanwhile_are_refused(tmp_path: Path) -> None:
    async with guarded(tmp_path, "echo went on", kind=Replaced) as it:
        assert await it.said() == f"{SAYS}kernel was replaced.\n"
        assert await it.process.wait() == FAILED


def identity(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_ctime_ns


@as_root
@pytest.mark.parametrize("jailed", [False, True])
async def test_programs_that_are_those_that_were_verified_run(
    tmp_path: Path, *, jailed: bool
) -> None:
    (tmp_path / "machine").mkdir()
    jail = jailer(tmp_path, "echo ran $*")
    others: dict[str, Any] = {"identity": identity(BUSYBOX), "jailer_identity": identity(jail)}
    async with guarded(
        tmp_path / "machine", "echo ran", jailer=jail if jailed else None, **others
    ) as it:
        said = await it.said()
    assert said.split()[0] == "ran"
    seen = f"--exec-file {tmp_path}/machine/programs/busybox"
    assert (seen in said) == jailed


@as_root
@pytest.mark.parametrize(
    "field, name", [("identity", "The program"), ("jailer_identity", "The jailer")]
)
async def test_another_build_in_the_place_of_a_program_is_not_run(
    tmp_path: Path, field: str, name: str
) -> None:
    """Also one that got the inode of the removed one."""
    (tmp_path / "machine").mkdir()
    jail = jailer(tmp_path, "echo ran")
    device, inode, changed = identity(BUSYBOX if field == "identity" else jail)
    others: dict[str, Any] = {field: (device, inode, changed - 1)}
    async with guarded(tmp_path / "machine", "", jailer=jail, **others) as it:
        assert await it.said() == f"{SAYS}{name} was replaced.\n"
        assert await it.process.wait() == FAILED


async def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    async with guarded(tmp_path, "", program=Path("/no/such/vmm")) as it:
        assert not await it.process.until_known()
        assert (await it.said()).startswith(f"{SAYS}[Errno 2] No such file or directory")
        assert await it.process.wait() == FAILED


async def test_the_hosts_mounts_stay_unchanged(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    async with guarded(tmp_path, "while :; do :; done") as it:
        assert await it.process.until_known()
        assert Path("/proc/self/mountinfo").read_text() == before


async def test_a_host_socket_cannot_be_reached(tmp_path: Path) -> None:
    name = "\0waggle-test-of-starter"
    with socket.socket(socket.AF_UNIX) as host:
        host.bind(name)
        script = 'while read x; do echo "$x"; done </proc/self/net/unix'
        async with guarded(tmp_path, script) as it:
            assert "waggle-test-of-starter" not in await it.said()


@pytest.mark.parametrize("packets, status", [([], 0), ([b"no plan"], FAILED)])
def test_a_guard_that_gets_no_plan_ends(packets: list[bytes], status: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, subprocess.Popen(python_argv(STARTER), stdin=theirs.fileno()) as guard:
        theirs.close()
        for packet in packets:
            ours.send(packet)
        ours.close()
        assert guard.wait(20) == status


def test_the_jailer_is_told_users_and_limits_and_no_cgroup() -> None:
    argv = jailer_argv(
        {
            "program": "/data/firecracker",
            "identity": (),
            "arguments": ["--api-sock", "/run/api.sock"],
            "jailer": "/data/jailer",
            "jailer_identity": (),
            "id": "m-1",
            "files": [],
            "texts": {},
            "directory": "/env/m",
            "maps_file": False,
            "run_mib": 1,
            "descriptors": 512,
            "uid": UID,
            "groups": [],
            "parent": 1,
        }
    )
    assert argv[0] == "/data/jailer"
    assert argv[argv.index("--exec-file") + 1] == "/env/m/programs/firecracker"
    assert argv[argv.index("--uid") + 1] == argv[argv.index("--gid") + 1] == str(UID)
    assert argv[argv.index("--chroot-base-dir") + 1] == "/env/m"
    assert "no-file=512" in argv
    assert argv[argv.index("--") + 1 :] == ["--api-sock", "/run/api.sock"]
    assert not {"--daemonize", "--new-pid-ns", "--cgroup", "--netns"} & set(argv)
