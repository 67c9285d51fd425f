# SPDX-License-Identifier: Apache-2.0
"""Handshakes that must fail: names, versions and certificates; and servers that speak first."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import warnings
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.infra.net.tls.secret_lab import (
    HOST,
    OTHER,
    PLACEHOLDER,
    SecretLab,
    Site,
    answer,
    request,
)
from tests.support.authorities import Authority

from waggle.infra.net.guest_request import DialTimes, EgressLimits

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


def careless(lab: SecretLab) -> ssl.SSLContext:
    context = lab.context()
    context.check_hostname = False
    return context


async def test_another_name_in_the_handshake_is_refused(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    _, writer = await lab.tunnel(port)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await writer.start_tls(careless(lab), server_hostname=OTHER)
    assert lab.denials == ["tls-other-name"]


async def test_no_name_in_the_handshake_is_refused(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    _, writer = await lab.tunnel(port)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await writer.start_tls(careless(lab))
    assert lab.denials == ["tls-no-name"]


async def test_old_tls_is_refused(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    _, writer = await lab.tunnel(port)
    context = lab.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await writer.start_tls(context, server_hostname=HOST)
    assert lab.denials == ["tls-version"]


async def test_tls_1_2_works(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"old but fine")))
    reader, writer = await lab.tunnel(port)
    context = lab.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    await writer.start_tls(context, server_hostname=HOST)
    writer.write(request(port))
    assert (await reader.read()).endswith(b"old but fine")


async def test_unknown_protocols_are_refused(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    _, writer = await lab.tunnel(port)
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        await writer.start_tls(lab.context("imap"), server_hostname=HOST)
    assert lab.denials == ["tls-no-protocol"]


async def test_a_guest_that_does_not_trust_the_authority_is_recorded(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    _, writer = await lab.tunnel(port)
    with pytest.raises(ssl.SSLCertVerificationError):
        await writer.start_tls(ssl.create_default_context(), server_hostname=HOST)
    while not lab.denials:  # noqa: ASYNC110 (the lab has no event)
        await asyncio.sleep(0)
    assert lab.denials == ["tls-not-accepted"]


def expired(lab: SecretLab) -> ssl.SSLContext:
    return lab.authority.server(HOST, expired=True)


def for_another(lab: SecretLab) -> ssl.SSLContext:
    return lab.authority.server(OTHER)


def from_nowhere(_: SecretLab) -> ssl.SSLContext:
    return Authority("nobody's").server(HOST)


@pytest.mark.parametrize(
    "server, why",
    [
        (expired, b"certificate has expired"),
        (for_another, b"Hostname mismatch"),
        (from_nowhere, b"unable to get local issuer certificate"),
    ],
)
async def test_a_server_that_cannot_be_verified_gets_nothing(
    lab: SecretLab, server: Callable[[SecretLab], ssl.SSLContext], why: bytes
) -> None:
    site = Site(answer(b""))
    port = await lab.listen(site, server(lab))
    got = await lab.ask(port, request(port, f"Authorization: {PLACEHOLDER}"))
    assert got.startswith(b"HTTP/1.1 502 ")
    assert b"X-Waggle-Denied: not-verified\r\n" in got
    assert why in got
    assert b"The operator can add an authority to WAGGLE_CA_BUNDLE." in got
    assert (site.got, lab.denials) == ([], ["not-verified"])


async def test_a_server_of_old_tls_gets_nothing(lab: SecretLab) -> None:
    site, context = Site(answer(b"")), lab.authority.server(HOST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    port = await lab.listen(site, context)
    got = await lab.ask(port, request(port, f"Authorization: {PLACEHOLDER}"))
    assert got.startswith(b"HTTP/1.1 502 ")
    assert b"the TLS handshake" in got or b"X-Waggle-Denied: not-verified\r\n" in got
    assert site.got == []


async def test_the_same_is_said_over_http2(lab: SecretLab) -> None:
    port = await lab.listen(Site(answer(b"")), expired(lab))
    async with httpx2.AsyncClient(http2=True, proxy=lab.url, verify=lab.context()) as http:
        got = await http.get(f"https://{HOST}:{port}/")
    assert (got.status_code, got.http_version) == (502, "HTTP/1.1")
    http2 = httpx2.AsyncClient(http1=False, http2=True, proxy=lab.url, verify=lab.context())
    async with http2 as http:
        got = await http.get(f"https://{HOST}:{port}/")
    assert (got.status_code, got.http_version) == (502, "HTTP/2")
    assert "certificate has expired" in got.text


async def test_a_server_that_never_shakes_hands_is_too_slow() -> None:
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = SecretLab(stack)
        await lab.start(EgressLimits(dial=DialTimes(connect=0.1)))

        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        port = await lab.listen(silent)
        got = await lab.ask(port, request(port))
        assert got.startswith(b"HTTP/1.1 504 ")
        assert b"the TLS handshake took too long" in got


async def test_a_server_that_is_not_tls_is_said(lab: SecretLab) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = await lab.listen(plain)
    got = await lab.ask(port, request(port))
    assert b"cannot be verified (wrong version number)" in got


async def test_the_protocol_is_what_the_server_chose(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"one")), "http/1.1")
    reader, writer = await lab.connect(port, "h2", "http/1.1")
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(request(port))
    assert (await reader.read()).endswith(b"one")


async def test_a_host_without_http2_is_said_to_one_that_knows_only_that(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"one")))
    http2 = httpx2.AsyncClient(http1=False, http2=True, proxy=lab.url, verify=lab.context())
    async with http2 as http:
        got = await http.get(f"https://{HOST}:{port}/")
    assert got.status_code == 502
    assert "does not speak HTTP/2; use HTTP/1.1" in got.text


async def test_a_server_that_speaks_first_is_relayed(lab: SecretLab) -> None:
    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-server\r\n")
        writer.write(b"got " + await reader.readline())

    port = await lab.listen(ssh)
    reader, writer = await lab.tunnel(port)
    assert await reader.readline() == b"SSH-2.0-server\r\n"
    writer.write(b"SSH-2.0-client\r\n")
    assert await reader.read() == b"got SSH-2.0-client\r\n"


@pytest.mark.parametrize("size", [0, 3, 9, 200])
async def test_a_handshake_may_come_in_pieces(lab: SecretLab, size: int) -> None:
    port = await lab.site(Site(answer(b"in pieces")))
    tls, sent, received = lab.context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.wrap_bio(received, sent, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = sent.read()
    reader, writer = await lab.tunnel(port)
    for piece in (hello[:size], hello[size:]):
        writer.write(piece)
        await writer.drain()
        for _ in range(20):
            await asyncio.sleep(0)
    received.write(await reader.read(65536))
    client.do_handshake()


@pytest.mark.parametrize(
    "first", [b"\x16\x03\x01\x00\x05\x02hello", b"\x16\x01\x01\x00\x05\x01hell"]
)
async def test_what_is_no_hello_gets_an_alert(lab: SecretLab, first: bytes) -> None:
    port = await lab.site(Site(answer(b"")))
    reader, writer = await lab.tunnel(port)
    writer.write(first)
    assert await reader.read() == b"\x15\x03\x03\x00\x02\x02\x32"
    assert lab.denials == ["tls-malformed"]
