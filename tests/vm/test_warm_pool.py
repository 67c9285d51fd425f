# SPDX-License-Identifier: Apache-2.0
"""Warm machines that became an environment: unowned before, and no other owner's afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel
import pytest
from tests.support.in_turn import pause_to_disk
from tests.support.vm import BUSYBOX, Lab, command, environment, lines, root, sh
from tests.support.waiting import until

from waggle.domain.environment import Environment
from waggle.domain.host import no_progress
from waggle.domain.machine import Resources
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.host.memory import Outlook
from waggle.infra.ssh.run import Shell
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import LocalHost
from waggle.service.local.warm_machine import WarmKind, WarmMachine
from waggle.service.local.warm_pool import WarmPool

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(400),
]
KIND = WarmKind(RuntimeName.SHELL, BUSYBOX, Resources(1, 192, 128))
WARM = dict.fromkeys(RuntimeName, command("/.waggle/bin/busybox", "true"))
DRIFT = 0.05
"""Seconds by which a claimed machine's clock may differ."""
FILL_SECONDS = 200.0


@dataclass
class Pooled:
    """A lab with a pool of two; `made` keeps its machines for inspection."""

    lab: Lab
    host: LocalHost
    pool: WarmPool[WarmMachine]
    made: list[WarmMachine]

    async def filled(self) -> None:
        await until(lambda: self.pool.counts() == {"shell": 2}, seconds=FILL_SECONDS)

    async def create(self, described: Environment) -> LocalGuest:
        return self.lab.adopt(await self.host.create(described, no_progress))


@pytest.fixture
async def pooled(quick: Lab) -> AsyncGenerator[Pooled]:
    lab = quick
    pool: WarmPool[WarmMachine] = WarmPool({KIND: 2}, room=lambda: 2, outlook=lambda: Outlook.FILL)
    lab.pool = pool
    made: list[WarmMachine] = []
    host = lab.host()

    async def make(kind: WarmKind) -> WarmMachine:
        """Make a machine whose clock is wrong while it waits."""
        machine = await host.warm(WARM, kind)
        wrong = sh("date -s 2001-01-01", user=GuestUser.ROOT)
        assert (await Shell(machine.connection).run(wrong)).exit_code == 0
        made.append(machine)
        return machine

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run, make)
        here = Pooled(lab, host, pool, made)
        await here.filled()
        yield here
        await pool.aclose()
        await lab.close()
        tasks.cancel_scope.cancel()
    assert not lab.ports.leased
    assert list(lab.environments.iterdir()) == []


async def test_claimed_machines_take_new_identities_that_differ(pooled: Pooled) -> None:
    ask = sh(
        "hostname; cat /etc/machine-id; head -c 32 /dev/urandom | sha256sum; "
        "cat /proc/sys/kernel/random/uuid"
    )
    before = [lines(await Shell(machine.connection).run(ask)) for machine in pooled.made]
    assert [identity[0] for identity in before] == ["warm", "warm"]
    guests: list[LocalGuest] = []
    for name in ("one", "two"):
        guests.append(await pooled.create(replace(environment(), name=name)))
        assert guests[-1].booted_from["warm"] == "yes"
        now = time.time()
        clock = await guests[-1].started.machine.agent.clock()
        assert now - DRIFT <= clock / 1e9 <= time.time() + DRIFT
    after = [lines(await guest.run(ask)) for guest in guests]
    assert [identity[0] for identity in after] == ["one", "two"]
    for number in (1, 2, 3):
        assert len({identity[number] for identity in (*before, *after)}) == 4
    assert lines(await guests[0].run(sh("grep -c one /etc/hosts"))) == ["1"]


async def test_the_way_out_is_offered_only_after_a_claim(pooled: Pooled) -> None:
    ask = sh("echo proxy $http_proxy; netstat -ltn | grep -q 127.0.0.1:3128 && echo offered; :")
    for machine in pooled.made:
        assert lines(await Shell(machine.connection).run(ask)) == ["proxy"]
    without = await pooled.create(environment())
    assert lines(await without.run(ask)) == ["proxy"]
    public = await pooled.create(environment(network=PUBLIC_NETWORK))
    assert lines(await public.run(ask)) == ["proxy http://127.0.0.1:3128", "offered"]


async def test_a_claimed_machine_keeps_its_files_where_any_environment_does(pooled: Pooled) -> None:
    """`waggle shell` finds its files, and it can be paused to disk like any other."""
    described = environment()
    guest = await pooled.create(described)
    home = pooled.lab.environments / described.id
    assert {"ssh_key", "known_hosts", "scratch.img"} <= {entry.name for entry in home.iterdir()}
    assert len(list(pooled.lab.environments.glob("warm-*"))) == 1
    resource_use = await guest.resource_use()
    assert resource_use is not None
    assert resource_use.disk_bytes > 0
    if not pooled.host.can_freeze():
        return
    await root(guest, "echo kept >/etc/kept")
    await pause_to_disk(guest)
    resumed = pooled.lab.adopt(await pooled.host.resume(described, no_progress))
    assert await root(resumed, "cat /etc/kept; hostname") == f"kept\n{described.name}\n"


async def test_a_warm_machine_has_the_usual_priority(pooled: Pooled) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for machine in pooled.made:
        pid = machine.started.machine.identity.pid
        assert os.getpriority(os.PRIO_PROCESS, pid) == own


async def test_hung_or_dead_warm_machines_do_not_fail_a_create(pooled: Pooled) -> None:
    """They are ended, and the environment gets another machine."""
    hung, dead = (machine.started.machine.identity.pid for machine in pooled.made)
    os.kill(hung, signal.SIGSTOP)
    os.kill(dead, signal.SIGKILL)
    described = environment(network=PUBLIC_NETWORK)
    guest = await pooled.create(described)
    assert "warm" not in guest.booted_from
    assert lines(await guest.run(sh("hostname"))) == [described.name]


async def test_a_cancelled_create_ends_the_machine_it_claimed(pooled: Pooled) -> None:
    described = environment()
    with anyio.CancelScope() as scope:

        async def progress(share: float, _message: str) -> None:
            if share == 1.0:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

        await pooled.host.create(described, progress)
    assert scope.cancelled_caught
    assert not pooled.made[0].is_alive
    assert not (pooled.lab.environments / described.id).exists()
    await pooled.filled()
    assert len(pooled.made) == 3
