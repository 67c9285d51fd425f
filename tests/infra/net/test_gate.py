# SPDX-License-Identifier: Apache-2.0
"""The gate: rules, addresses and questions together, for one connection."""

import asyncio
import dataclasses
from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from tests.infra.net.lab import OpenLab

from waggle.domain.network import parse_network
from waggle.domain.network.decisions import Decision
from waggle.domain.network.judging import Seen
from waggle.domain.network.questions import ALLOWED, NOBODY, SAID_NO
from waggle.domain.network.rule_book import Judges
from waggle.domain.network.rules import parse_rule
from waggle.infra.net.gate import Admitted, Gate, Passage, Reach
from waggle.infra.net.guest_request import Refusal, Target, parse_authority
from waggle.infra.net.policy import Address, AddressPolicy

GLOBAL, PRIVATE, METADATA = "93.184.216.34", "10.1.2.3", "169.254.169.254"
pytestmark = pytest.mark.anyio


class World:
    """A gate, the names that it can look up, and what it decided."""

    def __init__(self, own: str, maximum: str = "public", answer: str = NOBODY) -> None:
        self.names = {"example.org": [GLOBAL], "db.example.org": [PRIVATE], "meta": [METADATA]}
        self.looked_up: list[str] = []
        self.asked: list[tuple[str, int]] = []
        self.decisions: list[Decision] = []
        self.answer = answer
        self.meanwhile: str | None = None

        async def ask(host: str, port: int) -> str:
            self.asked.append((host, port))
            if self.meanwhile is not None:
                self.gate.network = parse_network(self.meanwhile)
            return self.answer

        reach = Reach(
            parse_network(own),
            Judges(maximum=parse_network(maximum)),
            [parse_rule("packages.example.org")],
            ask,
        )
        policy = AddressPolicy(is_local=lambda _: False)
        self.gate = Gate(reach, policy, self.decisions.append)

    async def resolve(self, target: Target) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        self.looked_up.append(target.name)
        return [ip_address(text) for text in self.names[target.name]]

    async def admit(self, place: str, seen: Seen | None = None) -> Admitted:
        return await self.gate.admit(parse_authority(place), seen, self.resolve)

    async def refused(self, place: str, seen: Seen | None = None) -> Refusal:
        with pytest.raises(Refusal) as refused:
            await self.admit(place, seen)
        assert refused.value.reason == self.decisions[-1].reason
        assert self.decisions[-1].address == ""
        return refused.value

    def passage(self, place: str, address: str, *, asked: bool = False) -> Passage:
        return Passage(parse_authority(place), ip_address(address), asked=asked)


async def test_a_name_that_no_rule_allows_is_not_even_looked_up() -> None:
    world = World("example.net")
    refusal = await world.refused("example.org:443")
    assert (refusal.status, refusal.code) == (403, "no-rule")
    assert world.looked_up == []
    for part in ("example.org:443 was refused", "Allowed: example.net.", "--allow example.org`"):
        assert part in refusal.text


async def test_an_allowed_name_may_not_lead_to_a_private_or_metadata_address() -> None:
    world = World("*.example.org, meta.example")
    world.names["meta.example"] = [METADATA, PRIVATE]
    assert (await world.refused("db.example.org:443")).code == "private"
    refusal = await world.refused("meta.example:443")
    assert refusal.code == "link-local"
    assert METADATA not in refusal.text


async def test_a_network_opens_a_private_address_if_the_operators_maximum_has_it() -> None:
    own = "10.1.0.0/16:5432"
    assert (await World(own).refused("db.example.org:5432")).code == "private"
    opened = World(own, "public, 10.0.0.0/8:5432")
    assert (await opened.admit("db.example.org:5432")).addresses == [ip_address(PRIVATE)]
    assert (await opened.admit(f"{PRIVATE}:5432")).rule == own
    assert (await opened.refused(f"{PRIVATE}:443")).code == "no-rule"


@pytest.mark.parametrize("own", ["public", "example.org"])
async def test_a_refusal_tells_whether_a_rule_of_the_environment_would_open_the_address(
    own: str,
) -> None:
    allowed = World(own, "public, 10.1.2.3:5432")
    refusal = await allowed.refused("10.1.2.3:5432")
    assert "`waggle env network ENV --allow 10.1.2.3:5432`" in refusal.text
    assert "operator" not in refusal.text
    for place in ("10.1.2.4:5432", "10.1.2.3:6379"):
        assert "WAGGLE_MAX_NETWORK" in (await allowed.refused(place)).text


async def test_metadata_needs_a_network_inside_its_range() -> None:
    wide = World("0.0.0.0/0", "0.0.0.0/0")
    assert (await wide.refused(f"{METADATA}:80")).code == "link-local"
    named = World(METADATA, METADATA)
    assert (await named.admit(f"{METADATA}:80")).addresses == [ip_address(METADATA)]


async def test_among_the_addresses_of_a_name_those_that_are_denied_are_left_out() -> None:
    world = World("example.org, deny 93.184.0.0/16")
    world.names["example.org"] = [GLOBAL, PRIVATE, "8.8.8.8"]
    assert (await world.admit("example.org:443")).addresses == [ip_address("8.8.8.8")]


async def test_requests_are_judged_where_they_are_seen() -> None:
    world = World("GET example.org/pub/")
    assert (await world.admit("example.org:80", Seen("GET", "/pub/x"))).addresses
    assert (await world.refused("example.org:80", Seen("POST", "/pub/x"))).code == "no-rule"
    hidden = await world.refused("example.org:443")
    assert (hidden.code, world.looked_up) == ("hidden", ["example.org"])


async def test_packages_stand_for_the_registries_of_the_image() -> None:
    world = World("@packages")
    world.names["packages.example.org"] = [GLOBAL]
    assert (await world.admit("packages.example.org:443")).rule == "packages.example.org"


class TestAsking:
    async def test_a_person_allows_what_no_rule_decides(self) -> None:
        world = World("ask", answer=ALLOWED)
        admitted = await world.admit("example.org:443")
        assert (admitted.rule, admitted.asked) == ("ask", True)
        assert world.asked == [("example.org", 443)]

    async def test_no_is_a_refusal_before_the_name_is_looked_up(self) -> None:
        world = World("ask", answer=SAID_NO)
        refusal = await world.refused("example.org:443")
        assert (refusal.code, world.looked_up) == ("said-no", [])
        assert "a person was asked and said no. " in refusal.text
        assert "--allow" not in refusal.text

    async def test_without_an_answer_the_refusal_names_what_would_allow_it(self) -> None:
        refusal = await World("ask", answer=NOBODY).refused("example.org.:8080")
        assert (refusal.code, NOBODY in refusal.text) == ("ask", True)
        assert "Allowed: what a person allows when asked. " in refusal.text
        assert "waggle env network ENV --allow example.org.:8080" in refusal.text

    async def test_a_rule_that_denies_meanwhile_wins_over_a_yes(self) -> None:
        for place in ("example.org:443", f"{GLOBAL}:443"):
            world = World("ask", answer=ALLOWED)
            world.meanwhile = "ask, deny example.org, deny 93.184.0.0/16"
            assert (await world.refused(place)).code == "rule"

    async def test_a_rule_that_the_answer_made_is_what_admits(self) -> None:
        world = World("ask", answer=ALLOWED)
        world.meanwhile = "ask, example.org:443"
        assert (await world.admit("example.org:443"))[1:] == ("example.org:443", False)

    async def test_yes_does_not_open_what_is_not_public(self) -> None:
        world = World("ask", answer=ALLOWED)
        assert (await world.refused("db.example.org:443")).code == "private"
        assert (await world.refused(f"{METADATA}:80")).code == "link-local"
        assert world.asked == [("db.example.org", 443)]  # the address itself would not help

    def test_a_name_is_not_looked_up_before_the_question(self) -> None:
        gate = World("ask, example.net").gate
        assert gate.may_look_up("example.net")
        assert not gate.may_look_up("secrets.example.org")

    async def test_an_address_is_asked_about_once(self) -> None:
        world = World("ask", answer=ALLOWED)
        assert (await world.admit(f"{GLOBAL}:443")).asked
        assert world.asked == [(GLOBAL, 443)]

    async def test_what_rules_decide_is_not_asked(self) -> None:
        world = World("ask, example.org, deny bad.example.org", answer=ALLOWED)
        await world.admit("example.org:443")
        assert (await world.refused("bad.example.org:443")).code == "rule"
        assert world.asked == []


async def wait_for_end(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


class TestOpenConnections:
    def test_they_are_judged_by_the_rules_of_now(self) -> None:
        world = World("example.org, example.net")
        passage = world.passage("example.org:443", GLOBAL)
        assert world.gate.still_admits(passage)
        world.gate.network = parse_network("example.net")
        assert not world.gate.still_admits(passage)
        world.gate.network = parse_network("public, deny 93.184.0.0/16")
        assert not world.gate.still_admits(passage)

    def test_one_that_a_person_allowed_stays_until_a_rule_denies_it(self) -> None:
        world = World("ask")
        passage = world.passage("example.org:443", GLOBAL, asked=True)
        assert world.gate.still_admits(passage)
        assert not world.gate.still_admits(dataclasses.replace(passage, asked=False))
        world.gate.network = parse_network("ask, deny example.org")
        assert not world.gate.still_admits(passage)

    async def test_setting_a_network_ends_those_that_no_longer_fit(self, open_lab: OpenLab) -> None:
        async with open_lab() as lab:
            lab.names.known["other.test"] = lab.names.known["open.test"]
            site = await lab.site(wait_for_end)
            kept, keeper = await lab.tunnel("other.test", site.port)
            ended, _ = await lab.tunnel("open.test", site.port)
            assert lab.proxy.set_network(parse_network(f"other.test:{site.port}")) == 1
            assert await ended.read() == b""
            assert lab.proxy.set_network(parse_network(f"other.test:{site.port}")) == 0
            keeper.write_eof()
            assert await kept.read() == b""

    @pytest.mark.parametrize("network", ["none", "*.example.org:9", "deny open.test, *:*"])
    async def test_rules_that_change_while_a_name_is_looked_up_count(
        self, open_lab: OpenLab, network: str
    ) -> None:
        """The attack: a guest's own name server answers when the agent has changed its mind."""
        answering = asyncio.Event()

        async def slow(_name: str) -> Sequence[Address]:
            await answering.wait()
            return [ip_address("127.0.0.1")]

        async with open_lab() as lab:
            site = await lab.site(wait_for_end)
            lab.names.instead = slow
            asking = asyncio.ensure_future(
                lab.ask(b"CONNECT open.test:%d HTTP/1.0\r\n\r\n" % site.port)
            )
            while not lab.proxy.active:  # noqa: ASYNC110 (the proxy has no event for this)
                await asyncio.sleep(0)
            assert lab.proxy.set_network(parse_network(network)) == 0
            answering.set()
            assert (await asking).startswith(b"HTTP/1.1 403 ")
            assert site.connections == 0
            assert [decision.is_allowed for decision in lab.decisions] == [False]


@pytest.mark.parametrize("host", ["evil.test.", "EVIL.test", "Evil.TEST.", "a.XN--Bcher-kva.test."])
async def test_a_name_is_denied_however_it_is_spelt(open_lab: OpenLab, host: str) -> None:
    async with open_lab() as lab:
        site = await lab.site(wait_for_end)
        lab.names.known[host.lower()] = ["127.0.0.1"]
        lab.proxy.set_network(parse_network("public, deny evil.test, deny *.xn--bcher-kva.test"))
        for asked in (f"CONNECT {host}:{site.port}", f"GET http://{host}:{site.port}/"):
            answer = await lab.ask(f"{asked} HTTP/1.0\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 403 rule")
        assert (site.connections, lab.names.questions) == (0, [])


def test_names_are_looked_up_for_a_guest_unless_rules_refuse_them() -> None:
    closed = Gate(Reach(judges=Judges(ports=frozenset({8080}))), AddressPolicy(), print)
    assert closed.may_look_up("example.org"), "whichever ports are open"
    assert World("example.org").gate.may_look_up("example.org")
    assert not World("ask").gate.may_look_up("example.org"), "a person is asked first"
    assert not World("example.org").gate.may_look_up("example.net")
    assert not World("public, deny *.example.org").gate.may_look_up("a.example.org")


async def test_registries_are_replaced_and_stay_with_another_network() -> None:
    world = World("@packages")
    world.names["pip.example.org"] = [GLOBAL]
    await world.refused("pip.example.org:443")
    world.gate.change(world.gate.network, [parse_rule("pip.example.org:443")])
    assert (await world.admit("pip.example.org:443")).addresses
    world.gate.change(parse_network("@packages, example.org"))
    assert (await world.admit("pip.example.org:443")).addresses


async def test_where_the_maximum_asks_a_rule_of_the_environment_is_no_way_out() -> None:
    world = World("public, example.org", "ask", answer="nobody answered")
    refusal = await world.refused("example.org:443")
    assert refusal.code == "maximum"
    assert "--allow" not in refusal.text
