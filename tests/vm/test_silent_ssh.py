# SPDX-License-Identifier: Apache-2.0
"""An SSH server that takes nobody, in a real machine: root has stopped it, or taken its places.

The server's programs are a dropbear for each connection, 32 at most, and PID 1, which accepts them.
The host has SOCKETS ways to a machine of QEMU; a connection holds one until both sides have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence

import anyio
import pytest
from structlog.testing import capture_logs
from tests.support.vm import Lab, lines, root, sh
from tests.support.waiting import until

from waggle.infra.qemu.hypervisor import QemuHypervisor
from waggle.infra.qemu.starter import SOCKETS
from waggle.infra.ssh import SshConnection, SshSilent
from waggle.infra.ssh.run import KILL_PATIENCE
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
DROPBEARS = "grep -l ^dropbear /proc/[0-9]*/cmdline | cut -d/ -f3"
"""Prints the process ids of the SSH server, as root sees them: its connections, and a spare."""
CONNECTED = (
    f"for p in $({DROPBEARS}); do"
    ' test "$(readlink /proc/$p/fd/0)" != "$(readlink /proc/$p/fd/1)" || echo $p; done'
)
"""Prints those of its connections alone."""
PLACES = 32
LONG_ENOUGH = KILL_PATIENCE[0] + 1
"""Seconds of a call that is not begun, after which its connection is given up."""
LITTLE = 5.0
"""Seconds of a call that has not the time to wait until the server has begun anew."""
RESET = struct.pack("ii", 1, 0)
Logs = Sequence[Mapping[str, object]]


@pytest.fixture
def qemu(quick: Lab) -> Lab:
    """A lab of QEMU's machines: they have SOCKETS ways in, and a network card."""
    if not isinstance(quick.hypervisor, QemuHypervisor):
        pytest.skip("NOT TESTED: machines of another hypervisor")
    return quick


async def later(guest: LocalGuest, script: str) -> None:
    """Run a script as root once this call has ended, and return when it is done."""
    whole = f"sleep 1; {script}; echo it is done > /dev/hvc0"
    console = guest.started.machine.console_tail
    before = sum("it is done" in line for line in console())
    await root(guest, f"({whole}) < /dev/null > /dev/null 2>&1 &")
    await until(lambda: sum("it is done" in line for line in console()) > before, 40)


async def stop_ssh(guest: LocalGuest) -> None:
    """Stop all processes of the SSH server."""
    await later(guest, f"kill -STOP $({DROPBEARS})")


async def is_silent(guest: LocalGuest, seconds: float, why: str) -> None:
    """Require that a call fails with what is known, and with what to do."""
    with pytest.raises(SshSilent, match=why) as caught:
        await guest.run(sh("true", timeout=seconds))
    assert "Its agent says: " in caught.value.message
    assert "restart_environment boots it again" in caught.value.hint


async def gives_up(guest: LocalGuest) -> None:
    """Run a program that is not begun, for so long that its connection is given up."""
    await is_silent(guest, LONG_ENOUGH, "did not answer within the command's time")


async def works(guest: LocalGuest) -> bool:
    return lines(await guest.run(sh("echo works"))) == ["works"]


def revivals(logs: Logs) -> int:
    return sum(entry["event"] == "ssh_restarted" for entry in logs)


@contextlib.asynccontextmanager
async def others(guest: LocalGuest, number: int) -> AsyncGenerator[list[SshConnection]]:
    """Connect so many times beside the guest's own connection; none has a way to revive it."""
    made = [SshConnection(guest.ssh_port, guest.keys) for _ in range(number)]
    try:
        for connection in made:
            await connection.get()
        yield made
    finally:
        for connection in made:
            await connection.aclose()


async def connected(guest: LocalGuest) -> set[str]:
    return set((await root(guest, CONNECTED)).split())


async def spare(guest: LocalGuest) -> str:
    """Wait for a server that waits for a client, and return its process id."""
    with anyio.fail_after(60):
        while not (waiting := set((await root(guest, DROPBEARS)).split()) - await connected(guest)):
            pass
    return waiting.pop()


async def stop_more(guest: LocalGuest, number: int, known: set[str]) -> None:
    """Begin so many connections that have come no further than a greeting, and stop their servers.

    The clients leave at once; the servers do not notice.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            address = ("127.0.0.1", guest.ssh_port)
            client = stack.enter_context(await asyncio.to_thread(socket.create_connection, address))
            client.settimeout(20)
            assert (await asyncio.to_thread(client.recv, 8)).startswith(b"SSH-2.0-")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        new = await connected(guest) - known
        assert len(new) == number
        await root(guest, f"kill -STOP {' '.join(new)}")
        known |= new


async def test_a_server_waits_for_the_next_client(quick: Lab) -> None:
    guest = await quick.guest()
    for _ in range(2):
        waiting = await spare(guest)
        async with others(guest, 1):
            assert waiting in await connected(guest)


@pytest.mark.parametrize("signal", ["STOP", "KILL"])
async def test_a_server_that_waits_and_is_stopped_or_killed_keeps_no_client(
    quick: Lab, signal: str
) -> None:
    guest = await quick.guest()
    await root(guest, f"kill -{signal} {await spare(guest)}")
    async with others(guest, 1):
        assert len(await connected(guest)) == 2


async def test_a_stopped_ssh_server_does_not_keep_the_next_call(quick: Lab) -> None:
    guest = await quick.guest()
    await stop_ssh(guest)
    await gives_up(guest)
    assert await works(guest)


async def test_a_given_up_connection_frees_its_way(qemu: Lab) -> None:
    """The next call has it soon, although the stopped server never closes its side."""
    guest = await qemu.guest()
    with capture_logs() as logs:
        async with others(guest, SOCKETS - 1):
            await stop_ssh(guest)
            await gives_up(guest)
            assert await works(guest)
    assert revivals(logs) == 0


async def test_ways_that_stopped_servers_hold_are_freed_as_it_begins_anew(qemu: Lab) -> None:
    """A call with little time fails, and what it has begun serves the next."""
    guest = await qemu.guest()
    with capture_logs() as logs:
        async with others(guest, SOCKETS - 1):
            await stop_ssh(guest)
            await gives_up(guest)
            async with others(guest, 1):
                await is_silent(guest, LITTLE, "did not answer within the command's time")
                assert await works(guest)
    assert revivals(logs) == 1


async def test_a_server_whose_places_stopped_programs_hold_begins_anew(qemu: Lab) -> None:
    guest = await qemu.guest()
    known = await connected(guest)
    while len(known) < PLACES:
        await stop_more(guest, min(SOCKETS - 1, PLACES - len(known)), known)
    await stop_ssh(guest)
    with capture_logs() as logs:
        await gives_up(guest)
        with pytest.raises(SshSilent, match="does not answer: Connection"):
            await SshConnection(guest.ssh_port, guest.keys).get()
        assert revivals(logs) == 0
        assert await works(guest)
    assert revivals(logs) == 1
    assert not known & await connected(guest)


async def test_a_server_whose_places_a_program_of_the_guest_holds_begins_anew(qemu: Lab) -> None:
    """Root enters the network of the card, takes the host's address and connects as the host."""
    guest = await qemu.guest()
    lead = "ip route del local 10.0.2.15 table local; ip route add local 10.0.2.15 table local"
    greeted = "test $(find greetings -type f -size +500c | wc -l) -ge"
    unread = "grep -q ':0016 [0-9A-F:]* 01 0*[1-9A-F]' /proc/net/tcp"
    take = (
        f"ip link set lo up; ip addr add 10.0.2.2/32 dev lo; {lead} dev lo src 10.0.2.2;"
        f"kill -9 $({DROPBEARS}); mkdir greetings;"
        f"for i in $(seq {PLACES + 8}); do sleep 600 | nc 10.0.2.15 22 > greetings/$i & done;"
        f"until {greeted} {PLACES}; do sleep 0.1; done; while {unread}; do sleep 0.1; done;"
        f"ip addr del 10.0.2.2/32 dev lo; {lead} dev eth0 src 10.0.2.15"
    )
    await root(guest, f"cat > take << 'END'\n{take}\nEND")
    with capture_logs() as logs:
        await later(guest, "nsenter --net=/proc/2/ns/net -- /.waggle/bin/busybox sh take")
        with pytest.raises(SshSilent, match="does not answer: Connection"):
            await SshConnection(guest.ssh_port, guest.keys).get()
        assert await works(guest)
    assert revivals(logs) == 1


async def test_the_listener_is_neither_killed_nor_stopped(quick: Lab) -> None:
    """It is PID 1, whom the kernel spares."""
    guest = await quick.guest()
    await root(guest, "kill -9 1; kill -STOP 1; true")
    async with others(guest, 1):
        assert await works(guest)


async def test_a_listener_that_is_frozen_fails_calls_in_time(quick: Lab) -> None:
    """Nothing in the guest can have it begin anew: a restart can."""
    guest = await quick.guest()
    group = "/.waggle/cgroup/frozen"
    await later(
        guest,
        f"mkdir {group}; echo 1 > {group}/cgroup.procs; echo 1 > {group}/cgroup.freeze;"
        f"kill -9 $({DROPBEARS})",
    )
    with capture_logs() as logs:
        await asyncio.gather(
            is_silent(guest, LITTLE, "did not answer within the command's time"),
            is_silent(guest, 60.0, "does not answer: it took over 20 s"),
        )
    assert revivals(logs) == 1
