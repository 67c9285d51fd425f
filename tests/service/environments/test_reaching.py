# SPDX-License-Identifier: Apache-2.0
"""Names of rules that clients ask for, and the registries that new guests are asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.service.snapshotting import snapshots
from tests.service.world import OWNER, PYTHON, Guest, World, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import GuestLost, InvalidArgument
from waggle.domain.network import Network, parse_network
from waggle.service.environments.creating import CopyRequest, CreateRequest
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.reaching import OperatorNetwork

pytestmark = pytest.mark.anyio

PACKAGES = parse_network("@packages")
REGISTRIES = ("pip.example.org:443", "files.example.org:443")


def reaching(network: str | Network) -> CreateRequest:
    wanted = parse_network(network) if isinstance(network, str) else network
    return replace(PYTHON, network=wanted)


def configure(here: World) -> None:
    """Let the package managers of new guests answer."""

    def prepare(guest: Guest) -> None:
        guest.configured = REGISTRIES

    here.host.prepare = prepare


async def asked(here: World, request: CreateRequest) -> tuple[Environment, Guest]:
    environment = await here.created(request)
    return environment, here.host.guests[environment.id]


async def test_names_of_rules_must_be_the_operators_or_the_preset() -> None:
    names = {"git": ()}
    async with world(rules=OperatorNetwork(lambda: names)) as here:
        await here.created(reaching("@git, @packages, example.org"))
        with pytest.raises(InvalidArgument, match="no rules with the name @internal") as caught:
            await here.created(reaching("@internal"))
        assert "@git, @packages" in caught.value.hint
        names["internal"] = ()  # the operator's file has changed
        await here.created(reaching("@internal"))


async def test_many_names_are_listed_shortly() -> None:
    names = [f"set{number:03}" for number in range(200)]
    async with world(rules=OperatorNetwork(lambda: names)) as here:
        with pytest.raises(InvalidArgument) as caught:
            await here.created(reaching("@other"))
        assert "and 171 more" in caught.value.hint
        assert len(caught.value.hint) < 500


async def test_a_guest_is_asked_before_its_environment_runs_and_the_answer_is_recorded() -> None:
    async with world() as here:
        configure(here)
        environment, guest = await asked(here, reaching(PACKAGES))
        assert guest.asked == [()]
        assert environment.registries == REGISTRIES
        (running,) = [saved for saved in here.store.history if saved.state is State.RUNNING]
        assert running.registries == REGISTRIES


@pytest.mark.parametrize("network", ["public", "example.org", "none", "ask"])
async def test_without_the_preset_nobody_is_asked(network: str) -> None:
    async with world() as here:
        configure(here)
        environment, guest = await asked(here, reaching(network))
        assert (guest.asked, environment.registries) == ([], None)


async def test_the_operators_own_packages_take_the_place_of_the_question() -> None:
    rules = OperatorNetwork(lambda: ["packages"], PACKAGES)
    async with world(rules=rules) as here:
        _, guest = await asked(here, reaching(PACKAGES))
        assert guest.asked == []


async def test_one_answer_holds_for_all_machines_of_an_image() -> None:
    async with world() as here:
        configure(here)
        _, first = await asked(here, reaching(PACKAGES))
        environment, second = await asked(here, reaching(PACKAGES))
        assert (len(first.asked), second.asked) == (1, [])
        assert environment.registries == REGISTRIES
        assert second.networks == [("@packages", REGISTRIES)]


async def test_an_answer_that_is_not_whole_is_not_remembered() -> None:
    async with world() as here:
        environment, first = await asked(here, reaching(PACKAGES))
        assert environment.registries is None, "it may be asked again"
        configure(here)
        environment, second = await asked(here, reaching(PACKAGES))
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert environment.registries == REGISTRIES


async def test_the_creators_variables_count_unless_the_maximum_depends_on_the_answer() -> None:
    own = replace(reaching(PACKAGES), variables={"PIP_INDEX_URL": "https://mine.example.org/"})
    async with world() as here:
        configure(here)
        _, guest = await asked(here, own)
        assert guest.asked == [()]
        _, other = await asked(here, reaching(PACKAGES))
        assert other.asked == [()], "the answer with his variables is not the image's"
    async with world(rules=OperatorNetwork(maximum=parse_network("@packages"))) as here:
        configure(here)
        _, guest = await asked(here, own)
        assert guest.asked == [("PIP_INDEX_URL",)]


async def test_a_maximum_with_the_preset_has_every_new_guest_asked() -> None:
    async with world(rules=OperatorNetwork(maximum=PACKAGES)) as here:
        configure(here)
        environment, _ = await asked(here, reaching("public"))
        assert environment.registries == REGISTRIES
        _, guest = await asked(here, reaching("none"))
        assert guest.asked == []


async def test_a_maximum_does_not_depend_on_machines_that_were_used() -> None:
    async with snapshots(rules=OperatorNetwork(maximum=PACKAGES)) as here:
        origin = await here.world.created(reaching("none"))
        taken = await here.service.take(origin.id, owner=OWNER)
        configure(here.world)
        request = CopyRequest(network=parse_network("public"))
        copy = await here.service.create(taken.id, request, owner=OWNER)
        assert copy.registries is None
        assert here.world.host.guests[copy.id].asked == []


async def test_forks_and_copies_of_snapshots_have_the_answer_of_their_original() -> None:
    async with snapshots() as here:
        configure(here.world)
        origin = await here.world.created(reaching(PACKAGES))
        (fork,) = await here.service.fork(origin.id, 1, owner=OWNER)
        taken = await here.service.take(origin.id, owner=OWNER)
        copy = await here.service.create(taken.id, CopyRequest(), owner=OWNER)
        for made in (fork, copy):
            assert (made.network, made.registries) == (PACKAGES, REGISTRIES)
            assert here.world.host.guests[made.id].asked == []


async def test_a_guest_that_is_lost_while_it_is_asked_fails_the_create() -> None:
    def prepare(guest: Guest) -> None:
        guest.registries_error = GuestLost("The machine died.")

    async with world() as here:
        here.host.prepare = prepare
        with pytest.raises(GuestLost):
            await here.created(reaching(PACKAGES))
        assert here.states() == []


async def test_a_used_machine_does_not_answer_for_others_of_its_image() -> None:
    async with snapshots() as here:
        world = here.world
        origin = await world.created(reaching("public"))
        changing = NetworkService(world.service)

        def change(guest: Guest) -> None:
            guest.configured = ("evil.example.org:443",)

        change(world.host.guests[origin.id])
        changed = await changing.set_network(origin.id, owner=OWNER, network=PACKAGES)
        assert changed.environment.registries == ("evil.example.org:443",), "its own concern"
        taken = await here.service.take(origin.id, owner=OWNER)
        world.host.prepare = change
        other = await world.created(reaching("public"))
        used = await here.service.take(other.id, owner=OWNER)
        await here.service.create(used.id, CopyRequest(network=PACKAGES), owner=OWNER)
        assert taken.registries == changed.environment.registries
        configure(world)
        new = await world.created(replace(reaching(PACKAGES)), owner="bob")
        assert new.registries == REGISTRIES
