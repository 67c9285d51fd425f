# SPDX-License-Identifier: Apache-2.0
"""Programs that an operator names are run once, confined: VMMs, other programs, and those that lie.

The programs are compiled here; a real Firecracker is in `test_real_binaries`.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.support.fake_vmm import fake_vmm, firecracker, jailer
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import InvalidArgument, SetupIncomplete, TimedOut
from waggle.infra.vmm.candidate import Said, Terms, ask_version, examine
from waggle.infra.vmm.client import Dial
from waggle.infra.vmm.offered import Copy
from waggle.infra.vmm.trial import MOST_THREADS, confine, namespaces, running
from waggle.infra.vmm.version import Version, Vmm

pytestmark = pytest.mark.anyio


def copy(path: Path) -> Copy:
    return Copy(path, "0" * 64, path.name)


async def refusal(program: Path, other: Path | None = None) -> str:
    with pytest.raises((InvalidArgument, SetupIncomplete, TimedOut)) as refused:
        await examine(copy(program), copy(other) if other else None, terms=Terms(3.0))
    assert refused.value.hint
    return refused.value.message


async def test_a_vmm_and_its_jailer_say_one_version(tmp_path: Path) -> None:
    leaks = Leaks()
    program, its_jailer = firecracker(tmp_path / "fc"), jailer(tmp_path / "jailer")
    expected = Said(Vmm.FIRECRACKER, Version(1, 13))
    assert await examine(copy(program), None) == expected
    assert await examine(copy(program), copy(its_jailer)) == expected
    await leaks.settle()


async def test_a_version_that_lies_is_refused(tmp_path: Path) -> None:
    lying = firecracker(tmp_path / "fc", "1.13.0", "1.9.1")
    assert "prints version 1.13.0, and its API says 1.9.1" in await refusal(lying)
    odd = firecracker(tmp_path / "odd", "1.13.0", "newest")
    assert "its API says newest" in await refusal(odd)
    foreign = fake_vmm(tmp_path / "b", "Firecracker v1.13.0", "1.13.0", 'FIELD="build_version"')
    assert "is not that of Firecracker" in await refusal(foreign)
    silent = fake_vmm(tmp_path / "c", "Firecracker v1.13.0")
    assert "does not start here: error: no hypervisor here" in await refusal(silent)


async def test_the_api_is_asked_through_the_given_function(tmp_path: Path) -> None:
    async def ask(dial: Dial, vmm: Vmm, version: Version) -> str:
        (await dial()).close()
        return f"{await ask_version(dial, vmm, version)}-dev"

    assert await examine(copy(firecracker(tmp_path / "fc")), None, ask) == Said(
        Vmm.FIRECRACKER, Version(1, 13)
    )


async def test_a_cloud_hypervisor_is_pinged(tmp_path: Path) -> None:
    banner, field = "cloud-hypervisor v51.1-3-gabcdef0", 'FIELD="version"'
    program = fake_vmm(tmp_path / "ch", banner, "51.1.0", field)
    expected = Said(Vmm.CLOUD_HYPERVISOR, Version(51, 1))
    assert await examine(copy(program), None) == expected
    lying = fake_vmm(tmp_path / "lying", banner, "50.0.0", field)
    assert "prints version 51.1.0, and its API says 50.0.0" in await refusal(lying)


async def test_a_cloud_hypervisor_without_kvm_is_not_asked(tmp_path: Path) -> None:
    program = fake_vmm(tmp_path / "ch", "cloud-hypervisor v48.0.0")
    said = await examine(copy(program), None)
    assert (said.vmm, said.version) == (Vmm.CLOUD_HYPERVISOR, Version(48))
    assert "no hypervisor here" in said.unasked
    assert "has no jailer" in await refusal(program, jailer(tmp_path / "jailer"))


@pytest.mark.parametrize(
    "said, why",
    [
        ("Firecracker v1.9.1", "Firecracker 1.9.1 is not supported"),
        ("cloud-hypervisor v47.0.0", "Cloud Hypervisor 47.0.0 is not supported"),
        ("Jailer v1.13.0", "is Firecracker's jailer"),
        ("QEMU emulator version 7.2", "names no VMM: it ended and printed QEMU"),
        ("Firecracker v1.13.0 and more", "names no VMM"),
        ("Firecracker vNext", "names no VMM"),
        ("", "printed nothing"),
    ],
)
async def test_other_programs_and_versions_are_refused(tmp_path: Path, said: str, why: str) -> None:
    assert why in await refusal(fake_vmm(tmp_path / "program", said, "1.13.0"))


async def test_supported_versions_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await examine(copy(firecracker(tmp_path / "fc", "1.9.0")), None)
    expected = "Supported are Firecracker 1.10.0 and newer, Cloud Hypervisor 48.0.0 and newer."
    assert refused.value.hint == expected


async def test_a_jailer_of_another_release_is_refused(tmp_path: Path) -> None:
    program = firecracker(tmp_path / "fc")
    other = jailer(tmp_path / "jailer", "1.12.0")
    assert "is the jailer of 1.12.0, and Firecracker is 1.13.0" in await refusal(program, other)
    assert "is no jailer, but firecracker" in await refusal(program, program)


async def test_a_failure_is_reported_without_control_characters(tmp_path: Path) -> None:
    program = fake_vmm(tmp_path / "p", r"Firecracker v1.13.0\n\x1b[2Jboo", "1.13.0", "CODE=7")
    message = await refusal(program)
    assert "it ended with 7 and printed ?[2Jboo" in message


@pytest.mark.timeout(60)
async def test_a_program_that_hangs_floods_or_leaves_children_ends(tmp_path: Path) -> None:
    leaks = Leaks()
    hanging = fake_vmm(tmp_path / "hangs", "", None, "HANGS")
    assert "--version did not end within 3 s" in await refusal(hanging)
    flooding = fake_vmm(tmp_path / "floods", "Firecracker v1.13.0", "1.13.0", "FLOODS")
    assert (await examine(copy(flooding), None)).version == Version(1, 13)
    await leaks.settle()


async def test_a_program_that_breeds_has_no_children_and_so_many_threads(tmp_path: Path) -> None:
    """A bound on memory is one on each process, so it bounds nothing where there may be many."""
    breeding = fake_vmm(tmp_path / "breeds", "Firecracker v1.13.0", None, "BREEDS")
    async with running(breeding, ["--version"], tmp_path) as trial:
        code, text = await trial.ended()
    assert code == 0
    facts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", text)}
    assert 0 < facts["children"] + facts["threads"] < MOST_THREADS
    if platform.machine() == "x86_64":
        assert facts["children"] == 0
    await ended(breeding)


async def test_children_that_leave_their_group_end_with_the_program(tmp_path: Path) -> None:
    leaving = fake_vmm(tmp_path / "leaves-a-child", "Firecracker v1.13.0", None, "LEAVES")
    user = os.geteuid() or 1234  # what one is given works for root, too
    apart = namespaces(user)
    assert apart
    result = subprocess.run([*apart, leaving, "--version"], capture_output=True, check=True)
    assert result.stdout.startswith(b"Firecracker v1.13.0")
    await ended(leaving)


async def test_a_program_ends_when_the_command_is_killed(tmp_path: Path) -> None:
    hanging = fake_vmm(tmp_path / "hangs", "", None, "HANGS")
    with hanging.open("rb") as held:  # its user may not enter the directory
        argv = confine([f"/proc/self/fd/{held.fileno()}", "--version"], kvm=False)
        start = f"import subprocess; subprocess.run({argv!r}, close_fds=False)"
        command = subprocess.Popen([sys.executable, "-c", start], pass_fds=[held.fileno()])
    try:
        await until(lambda: is_running(hanging))
    finally:
        command.kill()
        command.wait()
    await ended(hanging)


def is_running(program: Path) -> bool:
    inode = program.stat().st_ino
    return any(is_run(entry, inode) for entry in Path("/proc").iterdir())


async def ended(program: Path) -> None:
    await until(lambda: not is_running(program))


def is_run(process: Path, inode: int) -> bool:
    try:
        return (process / "exe").stat().st_ino == inode
    except OSError:
        return False


async def test_a_program_gets_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the operator")
    looking = fake_vmm(tmp_path / "looks", "", None, "LOOKS")
    async with running(looking, ["--version"], tmp_path) as trial:
        code, text = await trial.ended()
    facts = dict(re.findall(r"(\w+)=(-?\d+)", text))
    assert code == 0
    expected = {"privileges": "0", "variables": "2", "input": "0", "here": "0"}
    expected |= {"file": str(1 << 20), "data": str(1 << 30)}
    if os.geteuid() == 0:
        expected |= {"uid": "65534", "gid": "65534", "groups": "0", "host": "0", "interfaces": "1"}
    assert {name: facts[name] for name in expected} == expected


async def test_a_cancelled_run_leaves_no_process(tmp_path: Path) -> None:
    leaks = Leaks()
    hanging = fake_vmm(tmp_path / "hangs", "", None, "HANGS")
    with anyio.move_on_after(0.2) as scope:
        async with running(hanging, ["--version"], tmp_path) as trial:
            await trial.ended()
    assert scope.cancelled_caught
    await leaks.settle()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root runs it as another user")
async def test_a_link_to_another_socket_is_not_asked(tmp_path: Path) -> None:
    target = tmp_path / "of-the-host"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(target))
        listener.listen()
        points = fake_vmm(tmp_path / "p", "Firecracker v1.13.0", None, f'POINTS="{target}"')
        assert "is no socket" in await refusal(points)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
