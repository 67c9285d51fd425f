# SPDX-License-Identifier: Apache-2.0
"""Links to exposed ports: whom they admit, and that they end with what they open."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.service.world import OWNER, START, World, world

from waggle.domain.access import Owner
from waggle.domain.environment import Environment
from waggle.domain.errors import InvalidArgument, NotFound, Unsupported
from waggle.service.environments.ports import Admitted, PortService

pytestmark = pytest.mark.anyio
KEY = bytes(32)
PORT = 8000


@contextlib.asynccontextmanager
async def exposed() -> AsyncGenerator[tuple[World, PortService, Environment]]:
    async with world() as here:
        ports = PortService(here.service, KEY, here.clock)
        environment = await here.created()
        await ports.expose(environment.id, PORT, owner=OWNER, wait_seconds=0)
        yield here, ports, environment


async def test_a_link_admits_as_its_owner_until_it_expires() -> None:
    async with exposed() as (here, ports, environment):
        link = ports.link(environment.name, PORT, owner=OWNER, minutes=5)
        assert link.expires == START.timestamp() + 300
        admitted = ports.admit(environment.id, PORT, link.token)
        assert admitted == Admitted(Owner(OWNER), link.expires)
        here.clock.advance(minutes=5)
        assert ports.admit(environment.id, PORT, link.token) is None


async def test_a_link_opens_one_port_of_one_environment() -> None:
    async with exposed() as (here, ports, environment):
        other = await here.created()
        for made in (environment, other):
            await ports.expose(made.id, 9000, owner=OWNER, wait_seconds=0)
        link = ports.link(environment.id, PORT, owner=OWNER)
        assert ports.admit(environment.id, 9000, link.token) is None
        assert ports.admit(other.id, 9000, link.token) is None
        assert ports.admit("nothing", PORT, link.token) is None
        assert ports.admit(environment.name, PORT, link.token) is None
        assert PortService(here.service, bytes(31) + b"x").admit(other.id, 9000, "") is None


async def test_a_link_ends_with_unexpose_and_does_not_return() -> None:
    async with exposed() as (_, ports, environment):
        link = ports.link(environment.id, PORT, owner=OWNER)
        await ports.unexpose(environment.id, PORT, owner=OWNER)
        assert ports.admit(environment.id, PORT, link.token) is None
        await ports.expose(environment.id, PORT, owner=OWNER, wait_seconds=0)
        assert ports.admit(environment.id, PORT, link.token) is None
        again = ports.link(environment.id, PORT, owner=OWNER)
        assert ports.admit(environment.id, PORT, again.token)


async def test_a_link_ends_with_its_environment() -> None:
    async with exposed() as (here, ports, environment):
        link = ports.link(environment.id, PORT, owner=OWNER)
        await here.destroy(environment.id).result()
        assert ports.admit(environment.id, PORT, link.token) is None


async def test_a_link_lasts_through_a_pause() -> None:
    async with exposed() as (here, ports, environment):
        link = ports.link(environment.id, PORT, owner=OWNER)
        await here.service.pause(environment.id, owner=OWNER, to_disk=True)
        assert ports.admit(environment.id, PORT, link.token)


async def test_links_are_made_by_the_owner_for_exposed_ports_alone() -> None:
    async with exposed() as (here, ports, environment):
        with pytest.raises(NotFound):
            ports.link(environment.id, PORT, owner="eve")
        with pytest.raises(NotFound, match="not exposed"):
            ports.link(environment.id, 9000, owner=OWNER)
        with pytest.raises(InvalidArgument):
            ports.link(environment.id, PORT, owner=OWNER, minutes=0)
        without = PortService(here.service)
        assert not without.has_links
        with pytest.raises(Unsupported):
            without.link(environment.id, PORT, owner=OWNER)
