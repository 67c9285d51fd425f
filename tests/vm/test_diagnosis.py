# SPDX-License-Identifier: Apache-2.0
"""Why a run failed: evidence of the machine comes before what the program printed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from tests.support.vm import PYTHON, Lab, command, lines, root, sh

from waggle.app.values import image_service
from waggle.config import load
from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import GuestLost
from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.network import PUBLIC_NETWORK, parse_network
from waggle.domain.programs import Command, GuestUser
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
FILE = "{file}"
SCRATCH_MIB = 128


async def why(guest: LocalGuest, program: Command) -> Diagnosis | None:
    """Run a command that fails and return its diagnosis."""
    result = await guest.run(program)
    assert result.exit_code != 0, result.stdout.text()
    return await guest.diagnose(program, result)


async def found(guest: LocalGuest, program: Command) -> Diagnosis:
    """Run a command whose cause of failure must be found."""
    diagnosis = await why(guest, program)
    assert diagnosis is not None
    return diagnosis


async def test_out_of_memory_ends_the_whole_run_and_the_guest_still_answers(
    guest: LocalGuest,
) -> None:
    hog = sh("sleep 31401 & tail /dev/zero; echo survived", timeout=120.0)
    result = await guest.run(hog)
    assert (result.signal, result.stdout.text()) == ("SIGKILL", "")
    diagnosis = await guest.diagnose(hog, result)
    assert diagnosis is not None
    assert diagnosis.code == "out_of_memory"
    assert diagnosis.cause.startswith("Out of memory at 256 MiB, of which programs share ")
    assert "create_environment with memory_mb=512" in diagnosis.next_step
    assert lines(await guest.run(sh("pgrep -f 'sleep 3140[1]' || echo none"))) == ["none"]


async def test_the_oom_killer_spares_ssh_and_the_agent_but_not_programs(guest: LocalGuest) -> None:
    """This also holds where the whole kernel is out of memory, not only the programs' share."""
    adjusted = await root(
        guest,
        "cat /proc/1/oom_score_adj;"
        "for name in dropbear waggle-agent session; do"
        "  for pid in $(pidof $name); do cat /proc/$pid/oom_score_adj; done | sort -u; done;"
        "cat /proc/self/oom_score_adj",
    )
    assert adjusted.split() == ["-1000", "-1000", "-1000", "-1000", "0"]


async def test_refused_forks_are_diagnosed(guest: LocalGuest) -> None:
    runs = "/.waggle/cgroup/run"
    usual = (await root(guest, f"cat {runs}/pids.max")).strip()
    await root(guest, f"echo 24 > {runs}/pids.max")
    try:
        bomb = "for i in $(seq 60); do sleep 31402 & done 2> /dev/null; exit 1"
        diagnosis = await found(guest, sh(bomb, timeout=60.0))
    finally:
        await root(guest, f"echo {usual} > {runs}/pids.max")
    assert diagnosis.code == "too_many_processes"
    assert "at its limit of 24 processes" in diagnosis.cause
    await root(guest, "pkill -f 'sleep 3140[2]' || true")


async def test_a_full_disk(guest: LocalGuest) -> None:
    diagnosis = await found(guest, sh("cat /dev/zero > filler"))
    await root(guest, "rm /home/sandbox/filler")
    assert diagnosis.code == "disk_full"
    assert diagnosis.cause.startswith("The disk is full: 0.0 of ")
    assert f"create_environment with disk_mb={2 * SCRATCH_MIB}" in diagnosis.next_step
    assert await why(guest, sh("exit 1")) is None  # there is room again


async def test_a_full_memory_file_system_is_diagnosed(guest: LocalGuest) -> None:
    await root(guest, "mount -o remount,size=4m /dev/shm")
    diagnosis = await found(guest, sh("cat /dev/zero > /dev/shm/filler"))
    await root(guest, "rm /dev/shm/filler; mount -o remount,size=50% /dev/shm")
    assert (diagnosis.code, diagnosis.cause[:17]) == ("disk_full", "/dev/shm is full:")


@pytest.mark.parametrize(
    "program, code, words",
    [
        (command("no-such-program"), "command_not_found", "no program no-such-program in"),
        (command("/nowhere/at-all"), "command_not_found", "no file /nowhere/at-all."),
        (command("/etc/passwd"), "not_executable", "/etc/passwd may not be executed"),
        (command("/home"), "not_executable", "/home may not be executed"),
        (sh("no-such-program"), "command_not_found", "no program no-such-program in"),
        (sh("exit 127"), "command_not_found", "Exit code 127 is how a shell says"),
        (sh("/etc/passwd"), "not_executable", "Exit code 126 is how a shell says"),
        (sh("kill -SEGV $$"), "killed_by_signal", "Signal SIGSEGV ended it"),
        (sh("kill -BUS $$"), "killed_by_signal", "Signal SIGBUS ended it"),
        (sh("kill -KILL $$"), "killed_by_signal", "Signal SIGKILL ended it: something in the"),
        (sh("exit 137"), "killed_by_signal", "Exit code 137 is how a shell says that SIGKILL"),
    ],
)
async def test_ends_reported_by_the_launcher_are_diagnosed(
    guest: LocalGuest, program: Command, code: str, words: str
) -> None:
    diagnosis = await found(guest, program)
    assert diagnosis.code == code
    assert words in diagnosis.cause


@pytest.mark.parametrize(
    "cwd, words",
    [
        ("/nowhere", "does not exist"),
        ("/etc/passwd", "is no directory"),
        ("/root", "Permission denied"),
    ],
)
async def test_a_directory_that_cannot_be_entered(guest: LocalGuest, cwd: str, words: str) -> None:
    diagnosis = await found(guest, replace(sh("true"), cwd=cwd))
    assert diagnosis.code == "no_working_directory"
    assert words in diagnosis.cause


@pytest.mark.parametrize(
    "content, code, words",
    [
        (b"#!/usr/bin/python9\n", "interpreter_not_found", "but /usr/bin/python9, the interpreter"),
        (b"#!/bin/sh\r\necho x\r\n", "interpreter_not_found", "ends with a carriage return"),
        (b"no program\n", "not_executable", "script is not a program for this machine"),
    ],
)
async def test_files_that_cannot_be_executed_are_diagnosed(
    guest: LocalGuest, content: bytes, code: str, words: str
) -> None:
    await guest.write_file("/home/sandbox/script", content, 0o755)
    diagnosis = await found(guest, command("/home/sandbox/script"))
    assert diagnosis.code == code
    assert words in diagnosis.cause


@pytest.mark.parametrize(
    "script",
    [
        "echo \"ModuleNotFoundError: No module named 'numpy'\" >&2; exit 1",
        "echo 'Killed' >&2; exit 2",
        "echo 'X-Waggle-Denied: private' >&2; exit 22",
        "echo 'sh: busybox: not found' >&2",
    ],
)
async def test_printed_error_messages_alone_prove_nothing(guest: LocalGuest, script: str) -> None:
    result = await guest.run(sh(script))
    assert await guest.diagnose(sh(script), result) is None


async def test_a_cause_known_only_from_output_is_reported_as_such(guest: LocalGuest) -> None:
    diagnosis = await found(guest, sh("echo 'write: No space left on device' >&2; exit 1"))
    assert (diagnosis.code, diagnosis.cause[:16]) == ("disk_full", "It said that the")


async def test_a_pipeline_that_lacks_a_command_is_diagnosed(guest: LocalGuest) -> None:
    """The image of busybox alone has no package manager, sudo or python3."""
    program = sh("unzip-of-another-kind x | cat; git status | cat")
    result = await guest.run(program)
    assert result.exit_code == 0
    diagnosis = await guest.diagnose(program, result)
    assert diagnosis is not None
    assert diagnosis.code == "command_not_found"
    assert "unzip-of-another-kind" in diagnosis.cause
    diagnosis = await found(guest, sh("git status"))
    assert "no package manager" in diagnosis.next_step or "no network" in diagnosis.next_step


async def test_a_missing_network_is_diagnosed(guest: LocalGuest) -> None:
    diagnosis = await found(guest, sh("nc -w 2 192.0.2.1 443 < /dev/null"))
    assert diagnosis.code == "no_direct_network"
    assert "create one with network 'public'" in diagnosis.next_step


async def test_a_refused_address_is_diagnosed(quick: Lab) -> None:
    connected = await quick.guest(network=PUBLIC_NETWORK)
    program = sh("exec wget -q -O - http://10.1.2.3/secret")
    diagnosis = await found(connected, program)
    assert diagnosis.code == "network_refused"
    assert "10.1.2.3:80 was refused: it is a private address." in diagnosis.cause
    assert "WAGGLE_EGRESS_ALLOW_CIDRS" in diagnosis.next_step
    assert await why(connected, sh("exit 1")) is None  # the refusal was before this run


@pytest.fixture(scope="module")
async def python(shared_lab: Lab, python_image: BootImage) -> LocalGuest:
    shared_lab.images.known[PYTHON] = python_image
    rules = parse_network("example.net, deny ads.example.net")
    return await shared_lab.guest(PYTHON, memory=384, disk=512, network=rules)


def code(text: str) -> Command:
    return command("python3", FILE, code=text.encode(), extension=".py")


async def test_a_host_that_rules_deny_is_diagnosed_whatever_the_program_says(
    python: LocalGuest,
) -> None:
    get = "import urllib.request; urllib.request.urlopen('https://{}/')"
    failed = await found(python, code(get.format("ads.example.net")))
    assert failed.code == "network_refused"
    assert failed.cause == (
        "While it ran, ads.example.net:443 was refused: the rule 'deny ads.example.net' denies it."
    )
    cloned = await found(python, sh("git clone -q https://forge.example/a/b.git"))
    assert "forge.example:443 was refused: no rule allows it." in cloned.cause
    assert "--allow forge.example`" in cloned.next_step
    hidden = code(f"try:\n {get.format('other.example')}\nexcept OSError: print('offline')")
    for told in (True, False):
        result = await python.run(hidden)
        diagnosis = await python.diagnose(hidden, result)
        assert (result.exit_code, result.stdout.text()) == (0, "offline\n")
        assert (diagnosis is not None) is told
        assert diagnosis is None or "other.example:443 was refused" in diagnosis.cause


async def test_a_missing_python_module_is_diagnosed(python: LocalGuest) -> None:
    diagnosis = await found(python, code("import json, no_such_module.part"))
    assert diagnosis.code == "module_not_found"
    assert "The Python module no_such_module is not installed" in diagnosis.cause
    diagnosis = await found(python, code("import json.no_such_part"))
    assert "module json.no_such_part is not" in diagnosis.cause
    again = await found(python, command("python3", "-m", "no_such_module"))
    assert again.code == "module_not_found"


async def test_the_program_that_holds_an_address_is_named(python: LocalGuest) -> None:
    await python.run(sh("python3 -m http.server 8000 >/dev/null 2>&1 & sleep 0.5"))
    until = "until curl -so /dev/null 127.0.0.1:8000; do sleep 0.2; done"
    diagnosis = await found(python, sh(f"{until}; python3 -m http.server 8000", timeout=60.0))
    assert diagnosis.code == "address_in_use"
    assert "on port 8000, python3 -m http.server 8000." in diagnosis.cause
    assert "port 22" not in diagnosis.cause
    pid = diagnosis.next_step.rpartition("kill ")[2].rstrip(".")
    assert await root(python, f"kill {pid}; while kill -0 {pid} 2>&-; do sleep 0.1; done") == ""
    assert (await python.run(sh("curl -s 127.0.0.1:8000"))).exit_code != 0


async def test_a_module_that_exists_is_not_reported_missing(python: LocalGuest) -> None:
    lie = "import sys; sys.exit(\"ModuleNotFoundError: No module named 'json.tool'\")"
    assert await why(python, code(lie)) is None


async def test_a_python_error_without_another_cause_has_no_diagnosis(python: LocalGuest) -> None:
    diagnosis = await found(python, code("raise MemoryError"))
    assert diagnosis.cause.startswith("It said that it got no more memory")
    assert await why(python, code("1/0")) is None


async def test_a_killed_machine_is_reported_with_a_hint(quick: Lab) -> None:
    doomed = await quick.guest()
    os.kill(doomed.machine.pid, signal.SIGKILL)
    with pytest.raises(GuestLost, match="killed by SIGKILL") as lost:
        await doomed.run(sh("sleep 60"))
    assert "kernel for lack of memory" in lost.value.hint


async def test_a_guest_with_forged_evidence_has_no_diagnosis(quick: Lab) -> None:
    liar = await quick.guest()
    await root(liar, "mkdir -p -m 0700 /.waggle/run/why")
    cover = "for i in $(seq 0 255); do mkdir /.waggle/run/why/$(printf %02x $i); done"
    await root(liar, cover)
    program = sh("exit 3", user=GuestUser.ROOT)
    assert await why(liar, program) is None


async def test_a_missing_node_module_is_diagnosed(lab: Lab) -> None:
    """This uses the real node image of this host's store."""
    lab.images.known["node"] = await image_service(load()).boot_image("node", no_progress)
    node = await lab.guest("node", memory=384, disk=512)
    program = command("node", FILE, code=b"require('left-pad')", extension=".js", timeout=120.0)
    diagnosis = await found(node, program)
    assert diagnosis.code == "module_not_found"
    assert "The Node.js module left-pad is not installed" in diagnosis.cause
    assert await why(node, replace(program, code=b"throw new Error('x')")) is None
