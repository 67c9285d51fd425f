# SPDX-License-Identifier: Apache-2.0
"""A guest that calls the host on every port without end, and then answers no call itself.

Only where the guest's console is a vsock port: elsewhere no program in a guest can call the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.strain import STALL, strained
from tests.support.vm import PYTHON, Lab, command, lines, sh

from waggle.domain.errors import GuestLost
from waggle.domain.image import BootImage
from waggle.domain.programs import GuestUser
from waggle.service.local.guest import LocalGuest
from waggle.tasks import end

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(400),
    pytest.mark.usefixtures("leaks"),
]
MIB = 1 << 20
FLOOD_SECONDS = 12
LEAST_CALLS = 100
"""Of the console's port, so that it was a flood."""
GROWN = 24 * MIB
DESCRIPTORS = 40
"""More than without the flood: callers that wait for their turn to be closed, and the commands."""
ANSWER_SECONDS = 20.0
"""For a command of another environment, on a processor that the flood has, too."""
END_SECONDS = 15.0
FLOOD = """
import collections, os, random, socket, sys, threading, time
end = time.monotonic() + float(sys.argv[1])
ports = [1, 1, 1, 1, 22, 23, 24, 3128, 1 << 20, 0xfffffffe]
made, held = collections.Counter(), []

def call():
    port = random.choice(ports)
    client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    client.settimeout(1)
    client.connect((2, port))
    made[port] += 1
    kind = random.randrange(4)
    if kind == 0:
        client.send(b"half a line")
    elif kind == 1:
        client.send(os.urandom(65536))
    elif kind == 2:
        client.send(b"waggle: ready\\n\\n\\x1b[2J" * 500)
    if kind == 3 and len(held) < 300:
        held.append(client)
    else:
        client.close()

def flood():
    while time.monotonic() < end:
        try:
            call()
        except OSError:
            made["refused"] += 1

threads = [threading.Thread(target=flood) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(made[1], sum(made[port] for port in set(ports) - {1}), made["refused"])
"""
DEAF = (
    "cd /.waggle/cgroup; mkdir deaf; echo 1 >deaf/cgroup.procs; echo 1 >deaf/cgroup.freeze;"
    " kill -9 $(grep -l dropbear /proc/[0-9]*/comm | cut -d/ -f3)"
)
"""The first process takes no call any more, and every connection is lost."""


@pytest.fixture
def calling(lab: Lab, python_image: BootImage) -> Lab:
    if lab.hypervisor.name not in {"firecracker", "cloud-hypervisor"}:
        pytest.skip(f"NOT TESTED: guests of {lab.hypervisor.name} cannot call the host")
    lab.images.known[PYTHON] = python_image
    return lab


@dataclass(slots=True)
class Seen:
    """The worst that another environment and this process saw."""

    slowest: float = 0.0
    descriptors: int = 0

    @contextlib.contextmanager
    def timed(self) -> Generator[None]:
        began = time.monotonic()
        yield
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.descriptors = max(self.descriptors, descriptors())


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def works(guest: LocalGuest) -> None:
    assert lines(await guest.run(sh("echo works"))) == ["works"]


async def test_one_that_floods_every_port_costs_little_and_others_answer(calling: Lab) -> None:
    hostile = await calling.guest(PYTHON, memory=320)
    other = await calling.guest()
    await hostile.write_file("/tmp/flood.py", FLOOD.encode(), 0o644)
    flood = command("python3", "/tmp/flood.py", str(FLOOD_SECONDS), user=GuestUser.ROOT)
    before, seen = descriptors(), Seen()
    async with strained() as strain:
        flooding = asyncio.ensure_future(hostile.run(flood))
        while not flooding.done():
            with seen.timed():
                await works(other)
        console, elsewhere, refused = map(int, lines(await flooding)[0].split())
    print(f"{console=} {elsewhere=} {refused=} {seen=} {before=} {strain=}")  # noqa: T201
    assert console > LEAST_CALLS
    assert elsewhere == 0
    assert seen.descriptors - before < DESCRIPTORS
    assert seen.slowest < ANSWER_SECONDS
    assert (strain.stall < STALL, strain.grown < GROWN) == (True, True), strain
    await works(hostile)
    await _answers_no_call_and_is_ended(hostile, other)


async def _answers_no_call_and_is_ended(hostile: LocalGuest, other: LocalGuest) -> None:
    with pytest.raises(GuestLost):
        await hostile.run(sh(DEAF, user=GuestUser.ROOT, timeout=20))
    asking = asyncio.ensure_future(hostile.run(sh("true", timeout=1.0)))
    await works(other)
    began = time.monotonic()
    await hostile.destroy()
    took = time.monotonic() - began
    with contextlib.suppress(GuestLost):
        await asking
    await end(asking)
    assert took < END_SECONDS
    await works(other)
