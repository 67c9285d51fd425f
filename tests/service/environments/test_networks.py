# SPDX-License-Identifier: Apache-2.0
"""Changes of what an environment reaches: running, paused, on the disk, at the same time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.service.pausing import PAUSING, paused, use
from tests.service.world import OWNER, PYTHON, Broken, Guest, World, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import InvalidArgument, NotFound, NotRunning
from waggle.domain.network import MAX_ITEMS, NO_NETWORK, parse_network
from waggle.domain.network.registries import UNANSWERED
from waggle.service.environments.networks import Changed, NetworkService
from waggle.service.environments.reaching import OperatorNetwork

pytestmark = pytest.mark.anyio

RULES = parse_network("example.org")
REGISTRIES = ("pip.example.org:443",)


def service(here: World) -> NetworkService:
    return NetworkService(here.service)


async def made(here: World, network: str = "example.org") -> tuple[Environment, Guest]:
    environment = await here.created(replace(PYTHON, network=parse_network(network)))
    return environment, here.host.guests[environment.id]


async def allowed(here: World, environment: Environment, *rules: str) -> Changed:
    return await service(here).set_network(environment.id, owner=OWNER, allow=rules)


async def changed(here: World, environment: Environment, network: str) -> Changed:
    return await service(here).set_network(
        environment.id, owner=OWNER, network=parse_network(network)
    )


async def test_rules_are_added_recorded_and_judged_by_at_once() -> None:
    async with world() as here:
        environment, guest = await made(here)
        notified: list[Environment] = []
        here.service.events.when_changed(notified.append)
        guest.open_connections = 3
        result = await service(here).set_network(
            environment.id,
            owner=OWNER,
            allow=["*.example.net:22", "allow api.example.org", "@packages"],
            deny=["ads.example.org", "deny 10.0.0.0/8"],
        )
        text = (
            "@packages, example.org, *.example.net:22, api.example.org, deny ads.example.org, "
            "deny 10.0.0.0/8"
        )
        assert (str(result.environment.network), result.closed) == (text, 3)
        assert guest.networks == [(text, ())]
        assert str(here.store.records[environment.id].network) == text
        assert [str(seen.network) for seen in notified] == [text]


async def test_another_network_replaces_the_old_one_and_rules_come_after_it() -> None:
    async with world() as here:
        environment, _ = await made(here)
        result = await service(here).set_network(
            environment.id, owner=OWNER, network=parse_network("public"), deny=["ads.example.org"]
        )
        assert str(result.environment.network) == "public, deny ads.example.org"


async def test_a_change_is_idempotent_and_the_opposite_rule_goes() -> None:
    async with world() as here:
        environment, _ = await made(here, "public, deny ads.example.org")
        for _ in range(2):
            result = await allowed(here, environment, "ads.example.org")
            assert str(result.environment.network) == "public, ads.example.org"
        same = await changed(here, environment, "public, ads.example.org")
        assert str(same.environment.network) == "public, ads.example.org"


async def test_a_machine_without_a_network_cannot_get_one_and_none_is_for_good() -> None:
    async with world() as here:
        environment, guest = await made(here)
        assert (await changed(here, environment, "none")).environment.network == NO_NETWORK
        assert guest.networks[-1] == ("none", ())
        await changed(here, environment, "none")
        with pytest.raises(InvalidArgument, match="cannot get one any more") as caught:
            await changed(here, environment, "public")
        assert "create_environment(network=...)" in caught.value.hint
        with pytest.raises(InvalidArgument, match="has no network, which rules could open"):
            await allowed(here, environment, "example.org")
        assert here.get(environment.id).network == NO_NETWORK


@pytest.mark.parametrize(
    "allow, deny",
    [
        ("", ""),
        ("nonsense", ""),
        ("deny example.org", ""),
        ("", "allow example.org"),
        ("@Git", ""),
        ("@unknown", ""),
        ("", "@packages"),
        (";".join(f"host{number}.example.org" for number in range(MAX_ITEMS)), ""),
    ],
)
async def test_what_is_no_rule_changes_nothing(allow: str, deny: str) -> None:
    async with world() as here:
        environment, guest = await made(here)
        rules, denied = ([item for item in text.split(";") if item] for text in (allow, deny))
        with pytest.raises(InvalidArgument):
            await service(here).set_network(environment.id, owner=OWNER, allow=rules, deny=denied)
        assert here.get(environment.id).network == RULES
        assert guest.networks == []


async def test_only_its_owner_changes_it_and_only_while_it_lives() -> None:
    async with world() as here:
        environment, guest = await made(here)
        with pytest.raises(NotFound):
            await service(here).set_network(environment.id, owner="bob", deny=["example.org"])
        guest.die("gone")
        await settle()
        with pytest.raises(NotRunning):
            await allowed(here, environment, "example.net")


async def test_a_paused_one_changes_without_being_resumed() -> None:
    async with world(pausing=PAUSING) as here:
        environment, guest = await made(here)
        await paused(here, environment, to_disk=False)
        result = await allowed(here, environment, "example.net")
        assert result.environment.state is State.PAUSED
        assert guest.networks == [("example.org, example.net", ())]
        await paused(here, environment)
        result = await allowed(here, environment, "example.com")
        assert result.environment.is_on_disk
        assert len(guest.networks) == 1, "there is no machine to set it in"
        await use(here, environment)
        resumed = here.host.guests[environment.id].environment
        assert str(resumed.network) == "example.org, example.net, example.com"


async def test_a_change_that_cannot_be_recorded_is_not_made() -> None:
    async with world() as here:
        environment, guest = await made(here)
        here.store.broken.add(State.RUNNING)
        with pytest.raises(Broken):
            await allowed(here, environment, "example.net")
        here.store.broken.clear()
        assert here.get(environment.id).network == RULES
        assert guest.networks == []


async def test_a_cancelled_change_is_made_whole() -> None:
    async with world() as here:
        environment, guest = await made(here)
        here.gates.closed.add("save running")
        changing = here.start(allowed(here, environment, "example.net"))
        await here.gates.reached("save running")
        changing.cancel()
        here.gates.open("save running")
        await changing.wait()
        text = "example.org, example.net"
        assert str(here.store.records[environment.id].network) == text
        assert guest.networks == [(text, ())]


async def test_changes_at_the_same_time_are_all_made() -> None:
    async with world() as here:
        environment, guest = await made(here)
        hosts = [f"host{number}.example.org" for number in range(20)]
        jobs = [here.start(allowed(here, environment, host)) for host in hosts]
        for job in jobs:
            await job.result()
        assert str(here.get(environment.id).network) == ", ".join(["example.org", *hosts])
        assert guest.networks[-1][0] == str(here.get(environment.id).network)


async def test_registries_are_asked_for_when_they_are_first_needed() -> None:
    async with world() as here:
        environment, guest = await made(here)
        guest.configured = REGISTRIES
        result = await allowed(here, environment, "@packages")
        assert result.environment.registries == REGISTRIES
        assert guest.networks[-1] == ("@packages, example.org", REGISTRIES)
        await allowed(here, environment, "example.net")
        assert guest.asked == [()]
        assert guest.networks[-1][1] == REGISTRIES


async def test_a_machine_is_asked_again_by_name_as_tools_may_have_been_installed() -> None:
    async with world() as here:
        environment, guest = await made(here)
        guest.configured = REGISTRIES
        await allowed(here, environment, "@packages")
        guest.configured = (*REGISTRIES, "npm.example.org:443")
        result = await allowed(here, environment, "@packages")
        assert result.environment.registries == guest.configured
        assert guest.networks[-1][1] == guest.configured


async def test_a_machine_that_did_not_answer_wholly_is_asked_again() -> None:
    whole = (*REGISTRIES, "npm.example.org:443")
    async with world() as here:
        environment, guest = await made(here)
        guest.configured, guest.is_late = whole[:1], True
        result = await allowed(here, environment, "@packages")
        assert result.environment.registries == (*whole[:1], UNANSWERED)
        assert guest.networks[-1][1] == whole[:1], "the mark is no rule"
        guest.configured = whole[1:]
        result = await allowed(here, environment, "example.net")
        assert result.environment.registries == (*whole[::-1], UNANSWERED), "none is lost"
        guest.configured, guest.is_late = whole, False
        result = await allowed(here, environment, "example.com")
        assert result.environment.registries == whole
        await allowed(here, environment, "example.edu")
        assert len(guest.asked) == 3


async def test_a_used_machine_has_no_say_in_what_the_maximum_allows() -> None:
    rules = OperatorNetwork(maximum=parse_network("@packages, example.org"))
    async with world(rules=rules) as here:
        environment, guest = await made(here, "example.org")
        assert here.get(environment.id).registries == (), "it was asked when it was new"
        guest.configured = ("evil.example.org:443",)
        result = await allowed(here, environment, "@packages")
        assert result.environment.registries == ()
        assert len(guest.asked) == 1
