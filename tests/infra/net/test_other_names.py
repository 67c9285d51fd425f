# SPDX-License-Identifier: Apache-2.0
"""Tunnels whose TLS asks for another name than the proxy was given."""

import asyncio
import ssl

import pytest
from tests.infra.net.lab import OPEN, Lab, OpenLab

from waggle.domain.network import parse_network


def hello(name: str | None) -> bytes:
    """Return the first bytes of a real client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO, UNNAMED = hello("Example.org"), hello(None)
ALERT = b"\x15\x03\x03\x00\x02\x02\x70"
"""Fatal: unrecognized_name."""


def in_records(data: bytes, size: int) -> bytes:
    """Return the same message in records of at most `size` bytes."""
    body = data[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


async def _keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())


async def _tunnel(
    lab: Lab, network: str, data: bytes, host: str = "open.test"
) -> tuple[bytes, list[str]]:
    site = await lab.site(_keep)
    lab.proxy.set_network(parse_network(network.replace("PORT", str(site.port))))
    reader, writer = await lab.tunnel(host, site.port)
    for at in range(0, len(data), 50):
        writer.write(data[at : at + 50])
        await writer.drain()
    writer.write_eof()
    answer = await reader.read()
    return answer, [decision.code for decision in lab.decisions if not decision.is_allowed]


@pytest.mark.anyio
class TestTunnels:
    async def test_tls_for_another_name_is_refused_with_an_alert(self, open_lab: OpenLab) -> None:
        async with open_lab() as lab:
            assert await _tunnel(lab, "open.test:PORT", HELLO) == (ALERT, ["other-name"])
            assert "example.org, another name" in lab.decisions[-1].reason

    async def test_a_handshake_that_cannot_be_read_is_refused(self, open_lab: OpenLab) -> None:
        async with open_lab() as lab:
            odd = in_records(HELLO, 1)
            assert await _tunnel(lab, "open.test:PORT", odd) == (ALERT, ["other-name"])

    async def test_two_names_are_refused_since_servers_may_take_the_second(
        self, open_lab: OpenLab
    ) -> None:
        own, other = hello("open.test"), hello("evil.test")
        name = b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09"  # the extension's head, to the name
        assert name in own
        extra = other[other.index(name) :][: len(name) + 9]
        data = bytearray(own + extra)
        at = 43 + 1 + data[43]
        at += 2 + int.from_bytes(data[at : at + 2], "big")
        at += 1 + data[at]
        for place, size in ((3, 2), (6, 3), (at, 2)):
            length = int.from_bytes(data[place : place + size], "big") + len(extra)
            data[place : place + size] = length.to_bytes(size, "big")
        async with open_lab() as lab:
            assert await _tunnel(lab, "open.test:PORT", bytes(data)) == (ALERT, ["other-name"])

    async def test_an_address_does_not_lead_to_a_name_that_a_rule_denies(
        self, open_lab: OpenLab
    ) -> None:
        async with open_lab() as lab:
            rules = "127.0.0.0/8:PORT, deny example.org"
            assert await _tunnel(lab, rules, HELLO, OPEN) == (ALERT, ["other-name"])
        async with open_lab() as lab:
            fine = hello("open.test")
            assert await _tunnel(lab, rules, fine, OPEN) == (fine, [])

    @pytest.mark.parametrize("maximum", ["*:*", "public, deny example.org"])
    async def test_the_operators_rules_are_about_names_too(
        self, open_lab: OpenLab, maximum: str
    ) -> None:
        async with open_lab(maximum=maximum) as lab:
            assert await _tunnel(lab, "public", HELLO) == (ALERT, ["other-name"])

    @pytest.mark.parametrize("size", [40, 100])
    async def test_a_handshake_may_be_spread_over_records(
        self, open_lab: OpenLab, size: int
    ) -> None:
        async with open_lab() as lab:
            data = in_records(hello("open.test."), size)
            assert await _tunnel(lab, "open.test:PORT", data) == (data, [])

    @pytest.mark.parametrize("data", [hello("open.test"), UNNAMED, b"plain", b"\x16\x03", b""])
    async def test_the_same_name_or_none_passes(self, open_lab: OpenLab, data: bytes) -> None:
        async with open_lab() as lab:
            assert await _tunnel(lab, "open.test:PORT", data) == (data, [])

    async def test_where_no_rule_is_about_names_it_does_not_matter(self, open_lab: OpenLab) -> None:
        async with open_lab() as lab:
            assert await _tunnel(lab, "public", HELLO) == (HELLO, [])
