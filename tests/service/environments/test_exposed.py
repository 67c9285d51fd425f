# SPDX-License-Identifier: Apache-2.0
"""Visits of exposed ports: they count as use, wake a paused environment once, and end with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta

import anyio
import pytest
from tests.service.pausing import KEEP, PAUSING, paused, reaper, use
from tests.service.world import IDLE, OWNER, Broken, World, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import (
    BootFailed,
    Busy,
    GuestLost,
    MaxEnvironments,
    NotFound,
    NotRunning,
    TooManyPorts,
    TooManyVisits,
)
from waggle.domain.exposure import MAX_EXPOSED_PORTS, MAX_VISITS, ByteStream, StreamLost
from waggle.service.environments.exposed import WAKE_AGAIN
from waggle.service.environments.live import LiveEnvironment
from waggle.service.environments.ports import PortService
from waggle.service.environments.restarts import Restarts

pytestmark = pytest.mark.anyio
PORT = 8000


@contextlib.asynccontextmanager
async def echo() -> AsyncGenerator[int]:
    """Serve on loopback; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def exposed(here: World) -> AsyncGenerator[tuple[Environment, PortService]]:
    """Yield an environment whose port is exposed and leads to an echo."""
    async with echo() as behind:
        here.host.prepare = lambda guest: guest.servers.update({PORT: behind})
        environment = await here.created()
        ports = PortService(here.service)
        await ports.expose(environment.id, PORT, owner=OWNER, wait_seconds=0)
        yield environment, ports


def life(here: World, environment: Environment) -> LiveEnvironment:
    found = here.service.life(environment.id)
    assert found is not None
    return found


async def spoken(stream: ByteStream, text: bytes = b"hello") -> None:
    await stream.write(text)
    assert await stream.read() == text


async def lost(
    ports: PortService, environment: Environment, then: Callable[[], Awaitable[object]]
) -> None:
    """Visit, do something that ends the visit, and assert that it ends by itself."""
    async with ports.visit(environment.id, PORT, owner=OWNER) as stream:
        await spoken(stream)
        await then()
        await anyio.sleep_forever()


@pytest.mark.parametrize("to_disk", [False, True])
async def test_ports_stay_exposed_on_the_same_local_port_while_it_is_paused(to_disk: bool) -> None:
    async with world() as here:
        environment = await here.created()
        ports = PortService(here.service)
        first, _ = await ports.expose(environment.id, 8000, owner=OWNER)
        second, _ = await ports.expose(environment.id, 8001, owner=OWNER)
        for _ in range(2):
            await paused(here, environment, to_disk=to_disk)
            inspected = await here.service.inspect(environment.id, owner=OWNER)
            assert inspected.ports == (first, second)
            assert here.host.listening[0].open == {8000: 40_000, 8001: 40_001}
            await use(here, environment)
        await paused(here, environment, to_disk=to_disk)
        assert await ports.unexpose(environment.id, 8000, owner=OWNER)
        assert here.get(environment.id).state is State.PAUSED  # closing a port wakes nothing
        inspected = await here.service.inspect(environment.id, owner=OWNER)
        assert inspected.ports == (second,)


async def test_an_exposed_port_has_a_new_key_whenever_it_is_exposed() -> None:
    async with world() as here:
        environment = await here.created()
        ports = PortService(here.service)
        first, _ = await ports.expose(environment.id, PORT, owner=OWNER)
        again, _ = await ports.expose(environment.id, PORT, owner=OWNER)
        await ports.unexpose(environment.id, PORT, owner=OWNER)
        anew, _ = await ports.expose(environment.id, PORT, owner=OWNER)
        assert first.key == again.key != anew.key


async def test_the_number_of_ports_is_limited() -> None:
    async with world() as here:
        environment = await here.created()
        ports = life(here, environment).ports
        for port in range(1, MAX_EXPOSED_PORTS + 1):
            await ports.expose(port)
        with pytest.raises(TooManyPorts):
            await ports.expose(PORT)
        await ports.unexpose(1)
        await ports.expose(PORT)


async def test_bytes_pass_both_ways_and_a_visit_counts_as_use() -> None:
    async with world(pausing=PAUSING) as here, exposed(here) as (environment, ports):
        here.clock.advance(seconds=IDLE.total_seconds() - 1)
        async with ports.visit(environment.id, PORT, owner=OWNER) as stream:
            await spoken(stream)
            assert life(here, environment).ports.visits == 1
        assert life(here, environment).ports.visits == 0
        here.clock.advance(seconds=IDLE.total_seconds() - 1)
        assert await reaper(here).sweep() == []
        here.clock.advance(seconds=2)
        assert await reaper(here).sweep() == [environment.id]


async def test_only_exposed_ports_are_visited_and_only_by_their_owner() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        await paused(here, environment, to_disk=False)
        for identity, port, owner in (
            (environment.id, 9000, OWNER),
            (environment.id, PORT, "eve"),
            ("00000000-0000-4000-8000-00000000dead", PORT, OWNER),
            (environment.name, PORT, OWNER),
        ):
            with pytest.raises(NotFound):
                async with ports.visit(identity, port, owner=owner):
                    pass
        assert here.get(environment.id).state is State.PAUSED  # and none of these wakes it
        assert here.host.only.connected_ports == []


async def test_a_port_on_which_nothing_listens_is_an_error() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        here.host.only.servers.clear()
        with pytest.raises(GuestLost, match="Nothing listens on port 8000") as refused:
            async with ports.visit(environment.id, PORT, owner=OWNER):
                pass
        assert refused.value.hint == "Start the program that serves it there."


@pytest.mark.parametrize("to_disk", [False, True])
async def test_many_visits_wake_a_paused_environment_once(to_disk: bool) -> None:
    async with world() as here, exposed(here) as (environment, ports):
        await paused(here, environment, to_disk=to_disk)

        async def visit() -> None:
            async with ports.visit(environment.id, PORT, owner=OWNER) as stream:
                await spoken(stream)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(visit)
        assert here.get(environment.id).state is State.RUNNING
        assert here.store.states(environment.id).count(State.RUNNING) >= 1
        resumed = [guest.obeyed.count("unpause") for guest in here.host.guests.values()]
        assert sum(resumed) == (0 if to_disk else 1)
        assert len(here.host.guests) == 1


async def test_a_failed_wake_is_not_tried_again_at_once() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        await paused(here, environment, to_disk=True)
        here.host.create_error = BootFailed("no")

        async def visit() -> None:
            with pytest.raises(BootFailed):
                async with ports.visit(environment.id, PORT, owner=OWNER):
                    pass

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(visit)
        here.host.create_error = None
        await visit()
        assert here.get(environment.id).is_on_disk
        here.clock.advance(seconds=WAKE_AGAIN.total_seconds() + 1)
        async with ports.visit(environment.id, PORT, owner=OWNER) as stream:
            await spoken(stream)


async def test_a_wake_takes_a_slot_like_any_resume() -> None:
    async with world(capacity=1) as here, exposed(here) as (environment, ports):
        await paused(here, environment, to_disk=True)
        other = await here.created()
        with pytest.raises(MaxEnvironments):
            async with ports.visit(environment.id, PORT, owner=OWNER):
                pass
        await here.destroy(other.id).result()


async def test_a_pause_ends_visits_and_is_not_held_up_by_them() -> None:
    async with world() as here, exposed(here) as (environment, ports):

        async def pause() -> None:
            here.start(here.service.pause(environment.id, owner=OWNER, to_disk=True))

        with pytest.raises(StreamLost):
            await lost(ports, environment, pause)
        await settle()
        assert here.get(environment.id).is_on_disk
        assert life(here, environment).ports.visits == 0


async def test_a_visit_that_comes_during_a_pause_waits_and_wakes() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        here.gates.closed.add("pause_to_disk")
        pausing = here.start(here.service.pause(environment.id, owner=OWNER, to_disk=True))
        await here.gates.reached("pause_to_disk")

        async def visit() -> None:
            async with ports.visit(environment.id, PORT, owner=OWNER) as stream:
                await spoken(stream)

        visiting = here.start(visit())
        await settle()
        assert not visiting.is_done
        here.gates.open("pause_to_disk")
        await visiting.result()
        await pausing.wait()
        assert here.get(environment.id).state is State.RUNNING


async def test_closing_a_port_ends_its_visits_alone() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        here.host.only.servers[9000] = here.host.only.servers[PORT]
        await ports.expose(environment.id, 9000, owner=OWNER, wait_seconds=0)
        async with ports.visit(environment.id, 9000, owner=OWNER) as other:
            with pytest.raises(StreamLost):
                await lost(
                    *(ports, environment),
                    lambda: ports.unexpose(environment.id, PORT, owner=OWNER),
                )
            await spoken(other)


async def test_visits_are_bounded() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        hold = here.host.only.connect_hold = anyio.Event()

        async def visit() -> None:
            async with ports.visit(environment.id, PORT, owner=OWNER):
                pass

        async with anyio.create_task_group() as group:
            for _ in range(MAX_VISITS):
                group.start_soon(visit)
            await settle()
            with pytest.raises(TooManyVisits):
                await visit()
            hold.set()


@pytest.mark.parametrize("how", ["destroyed", "died"])
async def test_the_end_of_an_environment_ends_visits_and_listeners(how: str) -> None:
    async with world() as here, exposed(here) as (environment, ports):
        live = life(here, environment)

        async def end() -> None:
            if how == "destroyed":
                here.destroy(environment.id)
            else:
                here.host.only.die("killed")

        with pytest.raises(StreamLost):
            await lost(ports, environment, end)
        await settle()
        assert (live.ports.all, here.host.listening[0].open) == ((), {})
        with pytest.raises((GuestLost, NotRunning)):
            await live.ports.expose(PORT)


async def test_after_a_restart_those_on_the_disk_listen_again() -> None:
    async with world(pausing=PAUSING) as here, exposed(here) as (environment, ports):
        before = here.get(environment.id).exposed
        await paused(here, environment, to_disk=True)
        record = here.store.records[environment.id]
        assert record.exposed == before
        assert [one.key for one in record.exposed] == [one.key for one in before]
        async with world(pausing=PAUSING) as later:
            later.store.records[environment.id] = record
            later.host.on_disk.add(environment.id)
            later.host.prepare = here.host.prepare
            assert await later.service.recover() == 0
            assert later.host.listening[0].open == {PORT: before[0].local_port}
            async with PortService(later.service).visit(environment.id, PORT, owner=OWNER) as found:
                await spoken(found)
        assert timedelta(0) < KEEP
        assert ports.has_links is False


async def test_a_port_that_cannot_be_recorded_is_exposed_all_the_same() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        here.gates.errors["save running"] = Broken()
        made, _ = await ports.expose(environment.id, 9000, owner=OWNER, wait_seconds=0)
        assert made in here.get(environment.id).exposed
        here.gates.errors.clear()


@pytest.mark.parametrize("place", ["end", "create"])
async def test_a_restart_ends_visits_and_refuses_others_until_it_runs(place: str) -> None:
    async with world() as here, exposed(here) as (environment, ports):
        before = here.get(environment.id).exposed
        here.gates.closed.add(place)
        restart = Restarts(here.service).restart(environment.id, owner=OWNER)

        async def begin() -> None:
            here.start(restart)

        with pytest.raises(StreamLost):
            await lost(ports, environment, begin)
        await here.gates.reached(place)
        with pytest.raises(Busy, match="is being restarted"):
            async with ports.visit(environment.id, PORT, owner=OWNER):
                pass
        here.gates.open(place)
        await settle()
        assert here.get(environment.id).exposed == before
        assert here.host.listening[0].open == {PORT: before[0].local_port}
        async with ports.visit(environment.id, PORT, owner=OWNER) as stream:
            await spoken(stream)


async def test_a_visit_that_waits_for_the_guest_is_refused_once_it_is_restarted() -> None:
    async with world() as here, exposed(here) as (environment, ports):
        here.host.only.connect_hold = anyio.Event()

        async def visit() -> None:
            async with ports.visit(environment.id, PORT, owner=OWNER):
                pass

        visiting = here.start(visit())
        await settle()
        here.gates.closed.add("create")
        restart = here.start(Restarts(here.service).restart(environment.id, owner=OWNER))
        guest = here.host.only
        await here.gates.reached("create")
        assert guest.connect_hold is not None
        guest.connect_hold.set()
        with pytest.raises(Busy, match="is being restarted"):
            await visiting.result()
        here.gates.open("create")
        await restart.result()
