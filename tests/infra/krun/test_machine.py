# SPDX-License-Identifier: Apache-2.0
"""A machine whose runner is a small program: console, socket, agent and signals.

All wires, the forwarder and the process are real; only the virtual machine is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from waggle.domain.errors import GuestLost, PortTaken, TimedOut
from waggle.domain.machine import MachineSpec
from waggle.infra.guest.console import Console
from waggle.infra.guest.forwarder import claim
from waggle.infra.krun.machine import KrunMachine
from waggle.infra.krun.runner import SAYS
from waggle.infra.krun.wires import open_wires
from waggle.infra.shared.confined import ConfinedProcess, identify

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

PROLOGUE = """
import json, os, signal, socket, struct, sys, threading, time
console, directory, agent, renewal = map(int, sys.argv[1:])
agent = socket.socket(fileno=agent)
def say(text):
    os.write(console, text.encode() + b"\\n")
def serve():
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"SSH-2.0-played\\r\\n")
def answer(shutdown):
    for line in agent.makefile("rb"):
        if not line.strip():
            continue
        request = json.loads(line)
        if request["method"] == "reboot" and shutdown:
            os._exit(0)
        if request["method"] == "ping":
            answer = {"jsonrpc": "2.0", "id": request["id"], "result": {}}
            agent.sendall(json.dumps(answer).encode() + b"\\n")
os.fchdir(directory)
listener = socket.socket(socket.AF_UNIX)
listener.bind("ssh")
listener.listen()
threading.Thread(target=serve, daemon=True).start()
"""
READY = "say('booting'); say('waggle: ready')\n"
OBEYS = READY + "answer(True)"
NEVER_ENDS = READY + "answer(False)"
RENEWS = (
    READY
    + """
port = open(renewal, "r+b", 0)
while True:
    name, size = struct.unpack("<II", port.read(8))
    if name:
        say(f"{port.read(name).decode()} {len(port.read(size)) if size else 0}")
    else:
        port.write(struct.pack("<BQ", 1, time.time_ns()))
"""
)
DEAF = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"


@contextlib.asynccontextmanager
async def machine(spec: MachineSpec, program: str) -> AsyncGenerator[KrunMachine]:
    """Yield a machine that is connected to its runner; it is stopped at the end at the latest."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        console = Console(spec.console_log)
        wires, inherited = open_wires(spec, ours, theirs)
        ours.pop_all()
        numbers = (inherited.console, wires.directory, inherited.agent, inherited.renewal)
        process = ConfinedProcess.start(
            [sys.executable, "-c", PROLOGUE + program, *map(str, numbers)],
            descriptors=numbers,
            stderr=inherited.messages,
        )
        made = KrunMachine(process, console, wires)
    try:
        await made.connect()
        yield made
    finally:
        await made.stop()


async def banner(spec: MachineSpec) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", spec.ssh_port)
    try:
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_ready_guest_is_reached_by_its_port_and_its_agent(spec: MachineSpec) -> None:
    async with machine(spec, OBEYS) as made:
        early = asyncio.create_task(banner(spec))
        assert await made.until_ready() is None
        assert await early == await banner(spec) == b"SSH-2.0-played\r\n"
        await made.agent.ping()
        assert made.is_alive
        assert identify(made.identity.pid) == made.identity
        assert made.console_tail() == ["booting", "waggle: ready"]
    assert spec.console_log.read_bytes() == b"booting\nwaggle: ready\n"


async def test_it_is_renewed_through_its_own_port(spec: MachineSpec) -> None:
    async with machine(spec, RENEWS) as made:
        await made.until_ready()
        await made.renew({"hostname": b"other", "seed": bytes(64)})
        assert made.console_tail()[2:5] == ["hostname 5", "seed 64", "clock 8"]
        await made.stop()
        with pytest.raises(GuestLost, match="dead"):
            await made.renew({})


async def test_stop_asks_the_guest_first(spec: MachineSpec) -> None:
    async with machine(spec, OBEYS) as made:
        await made.until_ready()
        await made.stop()
        assert await made.wait() == "the guest shut down"


async def test_a_guest_that_ignores_the_shutdown_has_its_runner_terminated(
    spec: MachineSpec,
) -> None:
    async with machine(spec, NEVER_ENDS) as made:
        await made.until_ready()
        started = time.monotonic()
        await made.stop()
        assert time.monotonic() - started < 5
        assert await made.wait() == "libkrun was killed by SIGTERM"


async def test_a_runner_that_ignores_signals_is_killed(spec: MachineSpec) -> None:
    async with machine(spec, DEAF) as made:
        await made.until_ready()
        await made.stop()
        assert await made.wait() == "libkrun was killed by SIGKILL"


async def test_stop_before_the_guest_is_ready_kills_at_once(spec: MachineSpec) -> None:
    async with machine(spec, "say('booting'); answer(True)") as made:
        await made.stop()
        assert await made.wait() == "libkrun was killed by SIGKILL"


async def test_stop_leaves_nothing_and_may_be_repeated(spec: MachineSpec) -> None:
    async with machine(spec, OBEYS) as made:
        await made.until_ready()
        await asyncio.gather(made.stop(), made.stop())
        await made.stop()
        assert not made.is_alive
        assert identify(made.identity.pid) is None
        claim(spec.ssh_port).close()
        with pytest.raises(GuestLost, match="dead"):
            await made.agent.ping()


async def test_stop_finishes_although_its_caller_is_cancelled(spec: MachineSpec) -> None:
    async with machine(spec, NEVER_ENDS) as made:
        await made.until_ready()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await made.stop()
        assert identify(made.identity.pid) is None
        claim(spec.ssh_port).close()


async def test_a_process_that_cannot_be_killed_keeps_its_port_until_it_ends(
    spec: MachineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(spec, DEAF) as made:

        async def fail(_process: ConfinedProcess) -> int:
            raise TimedOut("the kernel does not end it")

        with monkeypatch.context() as patch:
            patch.setattr(ConfinedProcess, "kill", fail)
            with pytest.raises(TimedOut):
                await made.stop()
        assert made.is_alive
        with pytest.raises(PortTaken):
            claim(spec.ssh_port)
        await made.stop()
        claim(spec.ssh_port).close()


async def test_a_runner_that_dies_is_reported_with_its_cause(spec: MachineSpec) -> None:
    async with machine(spec, OBEYS) as made:
        await made.until_ready()
        waiting = asyncio.create_task(made.wait())
        os.kill(made.identity.pid, signal.SIGKILL)
        assert await waiting == "libkrun was killed by SIGKILL"


@pytest.mark.parametrize(
    "program,cause",
    [
        ("say('Kernel panic - not syncing: x'); sys.exit(0)", "Kernel panic - not syncing: x"),
        ("say('waggle: boot failed: y'); answer(True)", "waggle: boot failed: y"),
        ("sys.exit(0)", "the guest shut down"),
        ("sys.exit(5)", "libkrun ended with status 5"),
        (f"os.write(2, b'{SAYS}no memory.\\n'); sys.exit(3)", "no memory"),
        (f"os.write(2, b'{SAYS}no end'); sys.exit(3)", "no end"),
        ("os.abort()", "libkrun was killed by SIGABRT"),
    ],
)
async def test_a_guest_that_does_not_get_ready_has_a_cause(
    spec: MachineSpec, program: str, cause: str
) -> None:
    async with machine(spec, program) as made:
        assert await made.until_ready() == cause


async def test_no_client_is_served_before_the_guest_is_ready(spec: MachineSpec) -> None:
    async with machine(spec, "say('booting'); answer(True)") as made:
        waiting = asyncio.create_task(made.until_ready())
        early = asyncio.create_task(banner(spec))
        done, _ = await asyncio.wait({waiting, early}, timeout=0.3)
        assert not done
        for task in (waiting, early):
            task.cancel()
        await asyncio.gather(waiting, early, return_exceptions=True)


async def test_files_that_the_runner_leaves_in_its_directory_are_removed(spec: MachineSpec) -> None:
    mess = "os.makedirs('a/b'); open('a/b/c', 'w').close(); os.symlink('/etc', 'etc')\n"
    async with machine(spec, mess + OBEYS) as made:
        assert await made.until_ready() is None
    assert Path("/etc").is_dir()
