# SPDX-License-Identifier: Apache-2.0
"""Boots that fail or are given up, with real runner processes but no machine.

The contract suite boots machines where there is KVM. Here a library that is a FIFO blocks a runner
as long as a test needs, since opening a FIFO waits for its other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.infra.krun.elf import exits, krun_library, returns
from tests.infra.krun.parts import UID, needs_root
from tests.support.leaks import children
from tests.support.waiting import cancelled, until

from waggle.domain.errors import BootFailed, PortTaken
from waggle.domain.machine import MachineSpec
from waggle.infra.krun.machine import MAX_DESCRIPTORS, RUNNER, KrunHypervisor
from waggle.infra.shared.confined import filled_pipe, python_argv

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def hanging(tmp_path: Path) -> KrunHypervisor:
    os.mkfifo(tmp_path / "libkrun.so", 0o666)
    return KrunHypervisor(str(tmp_path / "libkrun.so"))


async def failure(hypervisor: KrunHypervisor, spec: MachineSpec) -> str:
    with pytest.raises(BootFailed) as caught:
        await hypervisor.boot(spec)
    return caught.value.message


async def test_a_runner_that_fails_at_once_says_why(spec: MachineSpec, tmp_path: Path) -> None:
    message = await failure(KrunHypervisor(str(tmp_path / "libkrun.so.1")), spec)
    cause, *console = message.splitlines()
    assert cause.startswith("The machine did not boot: libkrun cannot be loaded: ")
    assert "libkrun.so.1: cannot open shared object file" in cause
    assert any("waggle: the machine cannot start" in line for line in console)


@pytest.mark.parametrize(
    "uid", [None, pytest.param(UID, marks=needs_root)], ids=["as we are", "as another user"]
)
async def test_a_library_without_the_functions_fails_the_boot(
    spec: MachineSpec, uid: int | None
) -> None:
    message = await failure(KrunHypervisor("libc.so.6"), replace(spec, uid=uid))
    assert message.startswith("The machine did not boot: libkrun has no krun_init_log. ")


async def test_a_library_that_ends_the_runner_is_reported_with_its_status(
    spec: MachineSpec, tmp_path: Path
) -> None:
    library = krun_library(tmp_path / "libkrun.so", krun_create_ctx=exits(42))
    message = await failure(KrunHypervisor(str(library)), spec)
    assert "libkrun ended with status 42" in message


async def test_status_0_before_the_guest_is_ready_is_a_failure(
    spec: MachineSpec, tmp_path: Path
) -> None:
    """A panic ends like this too."""
    library = krun_library(tmp_path / "libkrun.so", krun_create_ctx=exits(0))
    assert "the guest shut down" in await failure(KrunHypervisor(str(library)), spec)


async def test_a_machine_that_cannot_be_built_fails_the_boot(
    spec: MachineSpec, tmp_path: Path
) -> None:
    """On a host without usable KVM, the message names /dev/kvm instead."""
    library = krun_library(tmp_path / "libkrun.so", krun_start_enter=returns(-22))
    message = await failure(KrunHypervisor(str(library)), spec)
    opens = os.access("/dev/kvm", os.R_OK | os.W_OK)
    assert ("krun_start_enter failed: Invalid argument" if opens else "/dev/kvm") in message


@needs_root
async def test_the_runner_can_reach_its_files_as_its_own_user(
    spec: MachineSpec, tmp_path: Path
) -> None:
    """Whether its user may open KVM depends on this host; everything before that does not."""
    library = krun_library(tmp_path / "libkrun.so", krun_start_enter=returns(-22))
    message = await failure(KrunHypervisor(str(library)), replace(spec, uid=UID))
    assert "krun_start_enter failed" in message or "'/dev/kvm'" in message


async def test_a_killed_runner_is_reported_as_killed(
    hanging: KrunHypervisor, spec: MachineSpec
) -> None:
    booting = asyncio.create_task(failure(hanging, spec))
    await until(lambda: bool(_runners()))
    os.kill(_runners()[0], signal.SIGKILL)
    assert "libkrun was killed by SIGKILL" in await booting


async def test_an_endless_boot_is_given_up_at_the_deadline(
    hanging: KrunHypervisor, spec: MachineSpec
) -> None:
    started = time.monotonic()
    message = await failure(hanging, replace(spec, boot_timeout=0.5))
    assert "the guest was not ready after 0.5 s" in message
    assert "(nothing)" in message
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_a_boot_cancelled_at_any_of_its_first_steps_leaves_nothing(
    hanging: KrunHypervisor, spec: MachineSpec, steps: int
) -> None:
    booting = asyncio.create_task(hanging.boot(spec))
    for _ in range(steps):
        await asyncio.sleep(0)
    await cancelled(booting)


async def test_a_boot_cancelled_again_during_its_clean_up_leaves_nothing(
    hanging: KrunHypervisor, spec: MachineSpec
) -> None:
    booting = asyncio.create_task(hanging.boot(spec))
    await until(lambda: bool(_runners()))
    for _ in range(3):
        booting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await booting


async def test_a_client_that_calls_during_a_boot_is_dropped_with_it(
    hanging: KrunHypervisor, spec: MachineSpec
) -> None:
    """It waits in the queue, as the machine may still get ready, and receives nothing."""
    booting = asyncio.create_task(hanging.boot(spec))
    await until(lambda: bool(_runners()))
    reader, writer = await asyncio.open_connection("127.0.0.1", spec.ssh_port)
    await cancelled(booting)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()


async def test_a_port_taken_in_the_meantime_starts_nothing(
    hanging: KrunHypervisor, spec: MachineSpec
) -> None:
    with socket.create_server(("127.0.0.1", spec.ssh_port)), pytest.raises(PortTaken):
        await hanging.boot(spec)
    assert not _runners()


@pytest.mark.parametrize("name", ["kernel", "scratch"])
async def test_a_missing_file_starts_nothing(
    hanging: KrunHypervisor, spec: MachineSpec, name: str
) -> None:
    (spec.kernel.parent / name).unlink()
    assert await failure(hanging, spec) == f"{name} cannot be opened: No such file or directory."
    assert not _runners()


async def test_a_runners_arguments_reveal_nothing(spec: MachineSpec) -> None:
    """Anyone can read them. Its imports come from where this process's imports come from."""
    argv = python_argv(RUNNER)
    assert argv[1:3] == ["-I", "-S"]
    assert not any(str(path) in " ".join(argv) for path in (spec.kernel, spec.console_log))
    assert all(Path(path).is_absolute() for path in argv[5:])


def test_a_server_with_few_descriptors_asks_for_no_more_than_it_has() -> None:
    """Raising the limit takes a right that a server without root lacks."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300));"
        "from waggle.infra.shared.confined import leash; print(*leash(['x'], 4096))"
    )
    argv = [sys.executable, "-c", f"import sys; sys.path[:] = sys.argv[1:]; {code}", *sys.path]
    printed = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    assert "--nofile=300:300" in printed.split()
    assert MAX_DESCRIPTORS > 300


def test_a_configuration_longer_than_a_pipe_is_refused_without_blocking() -> None:
    with contextlib.ExitStack() as stack, pytest.raises(BootFailed, match="too long"):
        filled_pipe(b"x" * 10_000_000, stack)


def _runners() -> list[int]:
    """Return the pids of this process's children that have become runners."""
    found: list[int] = []
    for name in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        with_arguments = Path(f"/proc/{name}/cmdline").read_bytes()
        if b"waggle.infra.krun.runner" in with_arguments and b"setpriv" not in with_arguments:
            found.append(int(name))
    assert len(found) <= len(children(os.getpid()))
    return found
