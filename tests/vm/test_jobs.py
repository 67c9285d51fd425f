# SPDX-License-Identifier: Apache-2.0
"""Jobs over the life of their machine: on the disk, under another server, and in the past.

And shims whose sockets root uses, in a machine that has a Python.
"""

from __future__ import annotations

import asyncio
import contextlib

import anyio
import anyio.lowlevel
import pytest
from tests.support.in_turn import frozen_of, pause_to_disk
from tests.support.jobs import again, job
from tests.support.vm import PYTHON, Lab, command, environment, freezing_of, lines, root, sh

from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost, TimedOut
from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.programs import GuestUser
from waggle.domain.programs.guest_job import Attributes, Detached, GuestJob
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import LocalHost
from waggle.tasks import end

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(300),
]
COUNT = "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end"
SOON = 30.0


@pytest.fixture
def freezing(quick: Lab) -> Lab:
    freezing_of(quick)
    return quick


async def started(lab: Lab) -> tuple[LocalHost, Environment, LocalGuest]:
    host, described = lab.host(), environment()
    return host, described, lab.adopt(await host.create(described, no_progress))


async def printed(made: GuestJob, count: int = 1) -> None:
    """Wait until so many bytes of a job have come."""
    with anyio.fail_after(60):
        while made.offsets[0] < count:
            await anyio.lowlevel.checkpoint()


async def test_another_server_lists_and_follows_the_jobs_of_a_machine_that_was_on_disk(
    freezing: Lab,
) -> None:
    _, described, guest = await started(freezing)
    running = job(sh(COUNT), note=b"a note")
    over = job(sh("echo before; exit 7"), note=b"another")
    task = asyncio.ensure_future(guest.attend(running))
    await guest.attend(over)
    await printed(running, 10)
    await pause_to_disk(guest)
    with pytest.raises(Detached):
        await task
    later = freezing.host()
    assert await later.recover(described)
    resumed = freezing.adopt(await later.resume(described, no_progress))
    found = {one.id: one for one in await resumed.jobs()}
    assert (found[running.id].is_running, found[running.id].note) == (True, b"a note")
    assert (found[over.id].exit_code, found[over.id].note) == (7, b"another")
    assert (await resumed.attend(again(found[over.id]))).stdout.text() == "before\n"
    await root(resumed, "touch /tmp/enough")
    counted = lines(await resumed.attend(again(found[running.id])))
    assert counted == [*map(str, range(1, len(counted))), "end"]
    assert len(counted) > 5


async def test_a_pause_on_disk_is_no_part_of_a_jobs_time(freezing: Lab) -> None:
    host, described, guest = await started(freezing)
    made = job(sh("echo begun; sleep 3; echo end", timeout=20.0))
    task = asyncio.ensure_future(guest.attend(made))
    await printed(made)
    await pause_to_disk(guest)
    with pytest.raises(Detached):
        await task
    await anyio.sleep(5)  # time that does pass, for all but the machine
    resumed = freezing.adopt(await host.resume(described, no_progress))
    result = await resumed.attend(made)
    assert result.stdout.text() == "begun\nend\n"
    assert 2.5 < result.duration < SOON


async def test_a_machine_of_the_past_knows_only_the_jobs_of_then(freezing: Lab) -> None:
    host, _, guest = await started(freezing)
    before, after = job(sh(COUNT)), job(sh("echo later; sleep 100"))
    tasks = [asyncio.ensure_future(guest.attend(before))]
    await printed(before)
    async with frozen_of(guest) as frozen:
        tasks.append(asyncio.ensure_future(guest.attend(after)))
        await printed(after)
        await end(*tasks)
        assert not any(one.is_running for one in await guest.jobs())
        past = freezing.adopt(await host.create(environment(), no_progress, frozen))
    (found,) = [one for one in await past.jobs() if one.is_running]
    assert found.id == before.id
    with pytest.raises(GuestLost):
        await past.attend(again(after))
    await root(past, "touch /tmp/enough")
    assert lines(await past.attend(again(found)))[-1] == "end"


HARM = """
import os, random, socket, struct, sys, time
path = "/.waggle/run/jobs/%s/socket" % sys.argv[1]
kind = sys.argv[2]

def connect():
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(1)
    client.connect(path)
    return client

if kind == "garbage":
    for _ in range(2000):
        try:
            client = connect()
            client.send(bytes([random.choice(b"ficsxz\\0"), random.randrange(64, 128)]))
            client.send(os.urandom(random.randrange(1, 3000)))
            client.close()
        except OSError:
            pass
elif kind == "crowd":
    crowd = []
    try:
        while len(crowd) < 100:
            crowd.append(connect())
            crowd[-1].send(b"f\\0")
    except OSError:
        pass
    print(len(crowd), flush=True)
    time.sleep(100)
else:
    os.unlink(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(path)
    server.listen(50)
    print("listening", flush=True)
    while True:
        client, _ = server.accept()
        if kind == "silent":
            held = client
        else:
            try:
                client.settimeout(1)
                for _ in range(1000):
                    socket.send_fds(client, [b"y" * random.randrange(1, 9)], [0, 1, 2])
            except OSError:
                pass
"""


@pytest.fixture
async def python(lab: Lab, python_image: BootImage) -> LocalGuest:
    lab.images.known[PYTHON] = python_image
    return await lab.guest(PYTHON, memory=320, cpus=2)


async def test_what_root_says_at_a_jobs_socket_harms_no_other_job(python: LocalGuest) -> None:
    await python.write_file("/tmp/harm.py", HARM.encode(), 0o644)
    for kind in ("garbage", "crowd", "silent", "flood"):
        made = job(sh("echo begun; sleep 100"), Attributes(keeps_input=True))
        following = asyncio.ensure_future(python.attend(made))
        await printed(made)
        argv = ("python3", "/tmp/harm.py", made.id, kind)
        harm = job(command(*argv, user=GuestUser.ROOT, timeout=100))
        harming = asyncio.ensure_future(python.attend(harm))
        if kind == "garbage":
            await harming
        else:
            await printed(harm)
        for asked in (
            python.signal(made.id, 10),
            python.write_input(made.id, b"x", close=True),
            python.attend(again(made, timeout=1.0)),
        ):
            with anyio.fail_after(SOON), contextlib.suppress(GuestLost, TimedOut):
                await asked
        assert lines(await python.run(sh("echo works"))) == ["works"]
        await end(following, harming)
    assert not any(found.is_running for found in await python.jobs())
