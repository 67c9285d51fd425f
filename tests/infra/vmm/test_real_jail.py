# SPDX-License-Identifier: Apache-2.0
"""A real Firecracker below its guard, with its jailer and without. It needs no KVM to be asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from packages.stage import FILES as PACKAGED
from tests.infra.vmm.guarded import UID, as_root
from tests.support.firecracker import FIRECRACKER, JAILER, VERSION, programs
from tests.support.leaks import Leaks

from waggle.domain.machine import Resources
from waggle.infra.firecracker.configuration import arguments, refusal, texts
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import VmmRefused
from waggle.infra.vmm.machine import API_SOCKET
from waggle.infra.vmm.process import GuardedProcess, Start
from waggle.infra.vmm.version import Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.net, pytest.mark.timeout(120), as_root]
FILES = {"kernel": False, "kit": False, "image": False, "scratch": True, "identity": False}


@pytest.fixture(scope="module")
def real() -> Path:
    return programs()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@contextlib.asynccontextmanager
async def started(
    place: Path, real: Path, *, jailed: bool, boots: bool = False
) -> AsyncGenerator[tuple[GuardedProcess, socket.socket]]:
    """Start one, and yield what hears it, too."""
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        files: dict[str, tuple[int, bool]] = {}
        for name, writable in FILES.items():
            (place / name).write_bytes(bytes(4096))
            (place / name).chmod(0o666)
            files[name] = (os.open(place / name, os.O_RDWR), writable)
            stack.callback(os.close, files[name][0])
        memory = os.memfd_create("memory")
        stack.callback(os.close, memory)
        start = Start(
            program=real / FIRECRACKER,
            arguments=arguments(boots=boots),
            texts=texts(Resources(1, 128, 1), Version.parse(VERSION), 10) if boots else {},
            jailer=real / JAILER if jailed else None,
            id="env_1",
            files=files,
            directory=place,
            run_mib=1,
            memory=memory,
            messages=theirs.fileno(),
            uid=UID,
        )
        process = GuardedProcess.launch(start)
        process.proceed()
        theirs.close()
        try:
            async with asyncio.timeout(30):
                assert await process.until_known()
                if not boots:
                    await process.until_listening(API_SOCKET)
            yield process, ours
        finally:
            await process.kill()
            process.close()


def status(pid: int) -> dict[str, str]:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (row.split(":", 1) for row in rows)}


@pytest.mark.parametrize("jailed", [True, False])
async def test_it_answers_and_sees_only_its_machine(
    place: Path, real: Path, *, jailed: bool
) -> None:
    leaks = Leaks()
    before = Path("/proc/self/mountinfo").read_text()
    async with started(place, real, jailed=jailed) as (process, _):
        client = VmmClient(
            lambda: process.dial(API_SOCKET), Vmm.FIRECRACKER, Version.parse(VERSION)
        )
        said = await client.call(api.GET_FIRECRACKER_VERSION)
        assert said.firecracker_version == VERSION
        now = status(process.identity.pid)
        assert {*now["Uid"].split(), *now["Gid"].split()} == {str(UID)}
        assert (now["Groups"], now["NoNewPrivs"], now["NSpid"].split()[-1]) == ("", "1", "1")
        assert {now[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        inside = {path.name for path in Path(f"/proc/{process.identity.pid}/root").iterdir()}
        assert inside >= {*FILES, "run", "proc", "dev"}
        assert inside <= {*FILES, "run", "proc", "dev", "vmm", FIRECRACKER, "firecracker.pid"}
        kernel = api.BootSource(kernel_image_path="/etc/passwd")
        with pytest.raises(VmmRefused, match="No such file or directory"):
            await client.call(api.PUT_GUEST_BOOT_SOURCE, kernel)
        assert Path("/proc/self/mountinfo").read_text() == before
    assert {path.name for path in place.iterdir()} == {*FILES}
    await leaks.settle()


@pytest.mark.parametrize("jailed", [True, False])
async def test_read_only_files_are_so_for_the_kernel_too(
    place: Path, real: Path, *, jailed: bool
) -> None:
    async with started(place, real, jailed=jailed) as (process, _):
        rows = Path(f"/proc/{process.identity.pid}/mountinfo").read_text().splitlines()
        mounts = {row.split()[4]: set(row.split()[5].split(",")) for row in rows}
        for name, writable in FILES.items():
            assert ("rw" in mounts[f"/{name}"]) is writable, name
            assert {"nosuid", "nodev"} <= mounts[f"/{name}"] or writable
        assert {"nosuid", "nodev", "noexec"} <= mounts["/run"]
        assert ("rw" in mounts["/"]) is jailed


@pytest.mark.parametrize("jailed", [True, False])
async def test_it_takes_the_whole_machine_that_it_reads_and_says_what_is_wrong_with_a_part(
    place: Path, real: Path, *, jailed: bool
) -> None:
    """Its kernel is none here, and a host may have no KVM: it comes that far all the same."""
    async with started(place, real, jailed=jailed, boots=True) as (process, ours):
        async with asyncio.timeout(30):
            assert await process.wait() > 0
        said = ours.recv(65536, socket.MSG_DONTWAIT).decode().splitlines()
    reason = refusal(said)
    assert reason is not None, said
    assert reason.startswith("Failed to build MicroVM from Json: Could not Start MicroVM"), reason


def test_the_packaged_service_has_the_rights_that_the_jailer_needs(place: Path, real: Path) -> None:
    unit = (PACKAGED / "server/waggle.service").read_text("utf-8")
    lines = re.findall(r"(?m)^CapabilityBoundingSet=(.+)$", unit)
    names = [name.removeprefix("CAP_").lower() for line in lines for name in line.split()]
    limits = ",".join(["-all", *(f"+{name}" for name in names)])
    argv = [
        *("unshare", "--mount", "setpriv", "--no-new-privs", "--bounding-set", limits),
        *(str(real / JAILER), "--id", "vm", "--exec-file", str(real / FIRECRACKER)),
        *("--uid", str(UID), "--gid", str(UID), "--chroot-base-dir", str(place)),
        *("--", "--version"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"Firecracker v{VERSION}"), done.stderr
