# SPDX-License-Identifier: Apache-2.0
"""Two servers of one user on one machine, with the same range of ports.

One is killed together with the guards of its machines, at one instant: a VMM that its jailer gave
another user does not notice that. Its next start finds what is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support import vmms
from tests.support.recovered import strays
from tests.support.waggle_client import connected, create, execute, until
from tests.support.waggle_process import Waggle, small

from waggle.infra.shared.cgroups import Nowhere, own_of, place, read_facts
from waggle.infra.shared.confined import identify

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]


@pytest.fixture
def servers(tmp_path: Path) -> Generator[tuple[Waggle, Waggle]]:
    first = Waggle(tmp_path / "first", small(tmp_path))
    second = Waggle(tmp_path / "second", small(tmp_path), ports=first.ports)
    both = (first, second)
    yield both
    for server in both:
        server.kill()
    first.kill_and_release()


@dataclass(frozen=True, slots=True)
class Running:
    """A machine as the host sees it."""

    pid: int
    user: int
    port: int
    group: str
    """Its control group; that of the server where machines have none."""
    guard: int
    """Its parent: the server itself, where there is no guard."""

    @property
    def is_there(self) -> bool:
        return identify(self.pid) is not None


def machine_of(server: Waggle) -> Running:
    """Return the only machine of a server: a descendant of its process that is a VMM."""
    ((pid, port),) = [(p, port) for p, port in vmms.running() if server.process.pid in above(p)]
    proc = Path(f"/proc/{pid}")
    group = own_of((proc / "cgroup").read_text())
    return Running(pid, proc.stat().st_uid, port, group, above(pid)[0])


def above(pid: int) -> list[int]:
    """Return the parents of a process, the next one first."""
    found: list[int] = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


async def made(server: Waggle) -> str:
    server.start()
    async with connected(server) as client:
        environment = await create(client, "shell")
        assert await execute(client, environment, "echo kept >note; cat note") == "kept\n"
    return environment


async def works(server: Waggle, environment: str) -> None:
    async with connected(server) as client:
        assert await execute(client, environment, "cat note") == "kept\n"


async def test_one_that_is_killed_with_its_guards_touches_no_other(
    servers: tuple[Waggle, Waggle],
) -> None:
    first, second = servers
    await made(first)
    kept = await made(second)
    theirs, ours = machine_of(first), machine_of(second)
    assert theirs.port != ours.port
    if os.geteuid() == 0:
        assert theirs.user != ours.user
    if has_groups := not isinstance(place(read_facts()), Nowhere):
        assert theirs.group != ours.group
    _kill_at_once(first.process.pid, theirs.guard)
    first.kill()
    await works(second, kept)
    first.start()
    await until(lambda: not theirs.is_there, what="the end of the machine that was left")
    left = {name: what for name, what in strays(first).items() if name == "mounts"}
    assert (left, first.directories()) == ({}, [])
    assert not (has_groups and _group(theirs).exists())
    assert ours.is_there
    await works(second, kept)
    for server in servers:
        server.end()
        assert server.complaints() == []
    assert not first.remains()
    assert not second.remains()


def _kill_at_once(*pids: int) -> None:
    """Stop all of them first, so that none of them sees another's end."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in {*pids}:
            os.kill(pid, number)


def _group(machine: Running) -> Path:
    return Path(f"{read_facts().mount}{machine.group}")
