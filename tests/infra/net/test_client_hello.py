# SPDX-License-Identifier: Apache-2.0
"""The name that a TLS client asks for, and tunnels whose TLS asks for another one."""

import asyncio
import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.net.lab import Lab, OpenLab

from waggle.domain.network import parse_network
from waggle.infra.net.client_hello import ALERT, MAX_HELLO, Malformed, MoreNeeded, server_name


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


def in_records(data: bytes, size: int) -> bytes:
    """Return the same message in records of at most `size` bytes."""
    body = data[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


def test_the_name_is_found_in_the_bytes_of_a_real_client() -> None:
    assert server_name(HELLO) == "example.org"
    assert server_name(UNNAMED) == ""
    assert server_name(hello("example.org.")) == "example.org"


@pytest.mark.parametrize("size", [40, 100, 1000])
def test_a_message_may_be_spread_over_records(size: int) -> None:
    assert server_name(in_records(HELLO, size)) == "example.org"


def test_it_says_how_many_bytes_it_needs() -> None:
    with pytest.raises(MoreNeeded) as first:
        server_name(HELLO[:1])
    with pytest.raises(MoreNeeded) as then:
        server_name(HELLO[:5])
    assert (first.value.size, then.value.size) == (2, len(HELLO))
    assert server_name(HELLO + b"more") == "example.org"


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x16\x02", b"\0"])
def test_other_protocols_have_no_name(data: bytes) -> None:
    assert server_name(data) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(in_records(HELLO, 1), id="a record for every byte"),
        pytest.param(b"\x16\x03\x01\xff\xff" + bytes(9), id="a record that is too long"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01\x01\x00\x00", id="a message that is too long"),
        pytest.param(b"\x16\x03\x01\x00\x00" * 20, id="empty records"),
        pytest.param(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", id="another message"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", id="an empty message"),
        pytest.param(HELLO.replace(b"Example.org", b"Ex\xffmple.org"), id="no ASCII"),
    ],
)
def test_what_begins_as_tls_never_passes_as_something_else(data: bytes) -> None:
    with pytest.raises(Malformed):
        server_name(data)


@given(st.binary(max_size=400) | st.binary(max_size=80).map(HELLO[:60].__add__))
def test_any_bytes_have_a_name_or_none_or_are_malformed(data: bytes) -> None:
    needed = 0
    with contextlib.suppress(Malformed):
        try:
            server_name(data)
        except MoreNeeded as short:
            needed = short.size
    assert needed == 0 or len(data) < needed <= MAX_HELLO


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_flipped_byte_does_no_harm(at: int, value: int) -> None:
    with contextlib.suppress(MoreNeeded, Malformed):
        server_name(HELLO[:at] + bytes([value]) + HELLO[at + 1 :])


async def _keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())


async def _tunnel(lab: Lab, network: str, data: bytes) -> tuple[bytes, list[str]]:
    site = await lab.site(_keep)
    lab.proxy.set_network(parse_network(network.replace("PORT", str(site.port))))
    reader, writer = await lab.tunnel("open.test", site.port)
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

    @pytest.mark.parametrize("data", [hello("open.test"), UNNAMED, b"plain", b"\x16\x03", b""])
    async def test_the_same_name_or_none_passes(self, open_lab: OpenLab, data: bytes) -> None:
        async with open_lab() as lab:
            assert await _tunnel(lab, "open.test:PORT", data) == (data, [])

    async def test_where_no_rule_is_about_names_it_does_not_matter(self, open_lab: OpenLab) -> None:
        async with open_lab() as lab:
            assert await _tunnel(lab, "public", HELLO) == (HELLO, [])
