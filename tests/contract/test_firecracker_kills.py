# SPDX-License-Identifier: Apache-2.0
"""A real Firecracker that is killed inside a call: while it writes a snapshot, or loads one.

Each is struck twice: with the request sent and not read yet, and in the middle of the work. It is
stopped first, so it cannot have answered in between; the test fails if it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.contract.firecracker import ON_FIRECRACKER, copy_of, hypervisor, resumed
from tests.contract.subjects import Case, Subject
from tests.support import vmms
from tests.support.leaks import Leaks
from tests.support.vm import Parts
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.domain.image import BootImage
from waggle.domain.machine import FrozenState, Machine, Resources
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.guest.boot import VmmKilled
from waggle.infra.guest.door import peer_pid
from waggle.infra.shared.cgroups import Groups, Place, place, read_facts
from waggle.infra.shared.confined import identify
from waggle.infra.vmm import client
from waggle.infra.vmm.exchange import Reply, exchange
from waggle.tasks import end

pytestmark = ON_FIRECRACKER
CREATE, LOAD = "/snapshot/create", "/snapshot/load"
SOON = 30.0
_LOOK = 0.001


def writes_state(pid: int) -> bool:
    """Tell whether it has begun a snapshot: the devices come first, then all memory."""
    return Path(f"/proc/{pid}/root/run/state").exists()


def maps_memory(pid: int) -> bool:
    """Tell whether it has begun to load one: it maps the memory, then makes the devices."""
    return "memfd:ram" in Path(f"/proc/{pid}/maps").read_text()


@dataclass(slots=True)
class Blow:
    """Kills the VMM that is asked for `path`; `struck` has the processes.

    `is_at_work` says when; without it, the VMM has not read the request.
    """

    path: str
    is_at_work: Callable[[int], bool] | None
    struck: list[int]

    async def exchange(
        self, connection: socket.socket, verb: str, path: str, body: bytes | None
    ) -> Reply:
        """Stand in the place of the client's."""
        if path != self.path:
            return await exchange(connection, verb, path, body)
        pid = peer_pid(connection)
        if self.is_at_work is None:
            await stopped(pid)
        asking = asyncio.create_task(exchange(connection, verb, path, body))
        try:
            await self._until_due(pid, connection, asking)
            await stopped(pid)
            assert not answered(connection), "it was too late for the blow"
            self.struck.append(pid)
            os.kill(pid, signal.SIGKILL)
            return await asking
        finally:
            await end(asking)

    async def _until_due(
        self, pid: int, connection: socket.socket, asking: asyncio.Task[Reply]
    ) -> None:
        async with asyncio.timeout(SOON):
            while True:
                await asyncio.sleep(_LOOK)
                assert not asking.done(), "it has answered before the blow"
                if self.is_at_work(pid) if self.is_at_work else unread(connection):
                    return


async def stopped(pid: int) -> None:
    """Stop a process, and return once all of its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: states(pid) == {"T"})


def states(pid: int) -> set[str]:
    texts = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return {text.rpartition(")")[2].split()[0] for text in texts}


def unread(connection: socket.socket) -> int:
    """Return the bytes that were sent and not read by the other end."""
    said = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", said)[0])


def answered(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return False


@contextlib.contextmanager
def blow(path: str, is_at_work: Callable[[int], bool] | None = None) -> Generator[None]:
    """Strike in the block, once, and require that the VMM is gone."""
    made = Blow(path, is_at_work, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "exchange", made.exchange)
        yield
    (pid,) = made.struck
    assert identify(pid) is None


@pytest.fixture
async def groups(leaks: Leaks) -> AsyncGenerator[Groups]:
    found = place(read_facts())
    assert isinstance(found, Place), found
    made = Groups.open(found)
    yield made
    assert [*made.home.glob("machine-*")] == []
    made.close()
    assert not made.home.exists()


@pytest.fixture
async def enclosed(
    groups: Groups, guest_parts: Parts, busybox_image: BootImage, tmp_path: Path
) -> AsyncGenerator[Subject]:
    """Machines in control groups, as a server has them."""

    def enclose(resources: Resources, pid: int) -> Callable[[], None]:
        return groups.enclose(pid, memory_mib=resources.memory_mib, cpus=resources.cpus)

    store = vmms.store()
    machines = FirecrackerHypervisor(store.newest, store.find, jailed=True, enclose=enclose)
    made = Subject(machines, guest_parts, busybox_image.disk, tmp_path, is_real=True, kits={})
    mounts = Path("/proc/self/mountinfo").read_text()
    yield made
    await made.close()
    assert Path("/proc/self/mountinfo").read_text() == mounts


def files(case: Case) -> set[str]:
    return {path.name for path in case.spec.console_log.parent.iterdir()}


OWN = {"console.log", "identity.img", "scratch.img"}


async def test_one_killed_inside_a_snapshot_or_a_load_is_named_and_leaves_nothing(
    enclosed: Subject,
) -> None:
    """What it was to load is whole, and what it ran boots again from its disk."""
    origin = await enclosed.case()
    for is_at_work in (None, writes_state):
        machine = await enclosed.boot(origin)
        with blow(CREATE, is_at_work), pytest.raises(GuestLost) as lost:
            await machine.freeze(origin.spec.disks)
        assert "while it was being frozen: Firecracker was killed by SIGKILL" in lost.value.message
        await _is_dead(machine)
        assert files(origin) == OWN
    machine = await enclosed.boot(origin)
    await origin.root("echo kept >/tmp/x")
    with contextlib.closing(await machine.freeze(origin.spec.disks)) as frozen:
        await machine.stop()
        for is_at_work in (None, maps_memory):
            case = await copy_of(enclosed, origin)
            with blow(LOAD, is_at_work), pytest.raises(VmmKilled) as killed:
                await hypervisor(enclosed).resume(case.spec, frozen)
            assert "Firecracker was killed by SIGKILL" in killed.value.message
            assert "Try again." in str(killed.value.hint)
            assert files(case) == OWN
        await _goes_on(enclosed, origin, frozen)


async def _is_dead(machine: Machine) -> None:
    assert await machine.wait() == "Firecracker was killed by SIGKILL"
    for order in (machine.unpause, machine.pause, partial(machine.renew, {})):
        with pytest.raises(GuestLost):
            await order()
    await machine.stop()
    await until(lambda: identify(machine.identity.pid) is None)


async def _goes_on(subject: Subject, origin: Case, frozen: FrozenState) -> None:
    case = await copy_of(subject, origin)
    copy = await resumed(subject, case, frozen)
    assert (await case.root("cat /tmp/x")) == "kept\n"
    with contextlib.closing(await copy.freeze(case.spec.disks)):
        await copy.unpause()
        assert (await case.root("cat /tmp/x")) == "kept\n"
