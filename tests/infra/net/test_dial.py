# SPDX-License-Identifier: Apache-2.0
"""Enforcement of the policy: connections go only to the address that was judged."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from waggle.domain.network import parse_network
from waggle.domain.network.decisions import Decision
from waggle.domain.network.rule_book import Judges
from waggle.infra.net.dial import Dialer
from waggle.infra.net.gate import Gate, Reach
from waggle.infra.net.guest_request import DialTimes, Refusal, parse_authority
from waggle.infra.net.lookups import Lookups, system_lookup
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.net.resolver import SystemResolver

if TYPE_CHECKING:
    from tests.infra.net.lab import Lab, OpenLab, Site, Turns

pytestmark = pytest.mark.anyio
ANY_LOOPBACK = AddressPolicy([ip_network("127.0.0.0/8")])
WEB = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def status(lab: Lab, host: str, site: Site) -> bytes:
    place = f"{host}:{site.port}"
    answer = await lab.ask(f"GET http://{place}/ HTTP/1.0\r\n\r\n".encode())
    return answer.split()[1]


async def test_a_name_with_permitted_and_denied_addresses_leads_to_the_permitted(
    open_lab: OpenLab,
) -> None:
    async with open_lab() as lab:
        lab.names.known["mixed.test"] = ["127.0.0.2", "10.0.0.1", "::1", "127.0.0.1"]
        site, secret = await lab.web(WEB), await lab.forbidden()
        assert await status(lab, "mixed.test", site) == b"200"
        assert await status(lab, "mixed.test", secret) == b"502"  # nothing listens there on .1
        assert secret.connections == 0


async def test_dns_rebinding_gains_nothing(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        secret = await lab.forbidden()
        lab.names.known["rebind.test"] = ["127.0.0.1"]
        lab.names.later["rebind.test"] = ["127.0.0.2"]
        assert await status(lab, "rebind.test", secret) == b"502"
        assert lab.names.questions == ["rebind.test"]  # judged and connected in one lookup
        assert await status(lab, "rebind.test", secret) == b"403"
        assert secret.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "[64:ff9b::127.0.0.2]"),
        *("[2002:7f00:2::1]", "[::127.0.0.2]", "[::]", "0.0.0.1", "[::1]", "169.254.169.254"),
    ],
)
async def test_addresses_are_judged_without_a_resolver(open_lab: OpenLab, host: str) -> None:
    async with open_lab() as lab:
        secret = await lab.forbidden()
        assert await status(lab, host, secret) == b"403"
        assert secret.connections == 0
        assert lab.names.questions == []


@pytest.mark.parametrize("host", ["127.2", "2130706434", "0x7f000002", "0177.0.0.2", "0x7f.2", "0"])
async def test_strange_spellings_are_judged_as_the_system_reads_them(
    open_lab: OpenLab, host: str
) -> None:
    async with open_lab() as lab:
        secret = await lab.forbidden()
        resolve = SystemResolver(Lookups(system_lookup))
        lab.names.known[host] = [str(a) for a in await resolve(host)]
        assert await status(lab, host, secret) == b"403"
        assert secret.connections == 0


async def test_of_a_thousand_addresses_the_first_few_count(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.web(WEB)
        lab.names.known["many.test"] = [f"10.0.{n >> 8}.{n & 255}" for n in range(999)]
        lab.names.known["many.test"] += ["127.0.0.1"]
        assert await status(lab, "many.test", site) == b"403"
        assert site.connections == 0


def dialer(
    lab: Lab, policy: AddressPolicy = ANY_LOOPBACK, times: DialTimes | None = None
) -> Dialer:
    def ignore(decision: Decision) -> None:
        pass

    gate = Gate(Reach(judges=Judges(ports=None, web=None)), policy, ignore)
    return Dialer(gate, lab.names, times or DialTimes())


async def test_the_hosts_own_address_is_unreachable_even_if_public(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        own = AddressPolicy(is_local=lambda a: a == ip_address("8.8.8.8"))
        with pytest.raises(Refusal) as refused:
            await dialer(lab, own).open(parse_authority("8.8.8.8:443"))
        assert refused.value.code == "host-address"


async def test_a_dead_address_yields_to_a_live_one(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.web(WEB)
        lab.names.known["half.test"] = ["127.0.0.9", "127.0.0.1"]
        (_, writer), passage = await dialer(lab).open(parse_authority(f"half.test:{site.port}"))
        assert writer.get_extra_info("peername") == ("127.0.0.1", site.port)
        assert str(passage.address) == "127.0.0.1"
        writer.close()


class Slow:
    """A listener whose queue is full, so that connecting to it takes forever."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.listener = socket.socket()
        self.listener.bind((address, port))
        self.listener.listen(0)
        self.port = int(self.listener.getsockname()[1])
        self.fillers: list[socket.socket] = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((address, self.port))
            self.fillers.append(filler)

    def close(self) -> None:
        for sock in (self.listener, *self.fillers):
            sock.close()


async def test_a_slow_address_is_overtaken_by_the_next(open_lab: OpenLab) -> None:
    slow = Slow("127.0.0.9")
    try:
        async with open_lab() as lab:
            live = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", slow.port)
            lab.names.known["slow.test"] = ["127.0.0.9", "127.0.0.1"]
            times = DialTimes(stagger=0.05)
            (_, writer), _ = await dialer(lab, times=times).open(
                parse_authority(f"slow.test:{slow.port}")
            )
            assert writer.get_extra_info("peername")[0] == "127.0.0.1"
            writer.close()
            live.close()
    finally:
        slow.close()


async def test_connecting_has_one_deadline_and_leaves_no_socket(open_lab: OpenLab) -> None:
    slow = Slow("127.0.0.9")
    try:
        async with open_lab() as lab:
            times = DialTimes(connect=0.1, stagger=0.01)
            with pytest.raises(Refusal) as refused:
                await dialer(lab, times=times).open(parse_authority(f"127.0.0.9:{slow.port}"))
            assert (refused.value.status, refused.value.code) == (504, "timeout")
    finally:
        slow.close()


async def test_rules_that_change_while_it_connects_count(open_lab: OpenLab, turns: Turns) -> None:
    slow, decisions = Slow("127.0.0.9"), list[Decision]()
    try:
        async with open_lab() as lab:
            live = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", slow.port)
            lab.names.known["slow.test"] = ["127.0.0.9", "127.0.0.1"]
            gate = Gate(Reach(judges=Judges(ports=None, web=None)), ANY_LOOPBACK, decisions.append)
            opening = asyncio.ensure_future(
                Dialer(gate, lab.names, DialTimes(stagger=0.2)).open(
                    parse_authority(f"slow.test:{slow.port}")
                )
            )
            await turns()
            assert lab.names.questions == ["slow.test"]
            gate.change(parse_network("none"))
            with pytest.raises(Refusal) as refused:
                await opening
            assert refused.value.code == "none"
            assert [decision.code for decision in decisions] == ["none"]
            live.close()
    finally:
        slow.close()
