# SPDX-License-Identifier: Apache-2.0
"""Requests that two parsers could read differently, and requests for elsewhere, inside TLS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.infra.net.tls.secret_lab import HOST, OTHER, PLACEHOLDER, VALUE, Site, answer, request

if TYPE_CHECKING:
    from tests.infra.net.tls.secret_lab import SecretLab

pytestmark = pytest.mark.anyio
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Host: other.example.test"],
        ["X: a\rb"],
        ["X: a\0b"],
    ],
)
async def test_ambiguous_heads_are_refused(lab: SecretLab, lines: list[str]) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    got = await lab.ask(port, request(port, *lines, method="POST") + b"0\r\n\r\n" + SMUGGLED)
    assert got.split(b" ")[1] in (b"400", b"501")
    assert site.got == []


@pytest.mark.parametrize(
    "head",
    [
        f"GET / HTTP/1.1\nHost: {HOST}:PORT\nX: {PLACEHOLDER}\n\n",
        f"GET / HTTP/1.1\r\nHost: {HOST}:PORT\r\nX: a\r\n {PLACEHOLDER}\r\n\r\n",
    ],
)
async def test_bare_line_feeds_and_folded_lines_are_sent_in_one_way(
    lab: SecretLab, head: str
) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    await lab.ask(port, head.replace("PORT", str(port)).encode())
    ((got, _),) = site.got
    assert got.count(b"\n") == got.count(b"\r\n")
    assert b"\r\n " not in got
    assert VALUE + b"\r\n" in got


async def test_bad_chunks_never_end_the_request(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    bad = b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED
    got = await lab.ask(port, request(port, "Transfer-Encoding: chunked", method="POST") + bad)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert site.heads.count(b"smuggled") == 0


@pytest.mark.parametrize(
    "head",
    [
        f"GET / HTTP/1.1\r\nHost: {OTHER}:PORT\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {HOST}:1\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {HOST}@{OTHER}:PORT\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        f"GET https://{OTHER}:PORT/ HTTP/1.1\r\nHost: {HOST}:PORT\r\n\r\n",
        f"GET https://{HOST}:PORT@{OTHER}/ HTTP/1.1\r\nHost: {HOST}:PORT\r\n\r\n",
    ],
)
async def test_another_host_is_misdirected(lab: SecretLab, head: str) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    got = await lab.ask(port, head.replace("PORT", str(port)).encode())
    assert got.startswith(b"HTTP/1.1 421 ")
    assert b"X-Waggle-Denied: other-host\r\n" in got
    assert (lab.denials, site.got) == (["other-host"], [])


async def test_an_absolute_url_of_the_same_host_passes(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    head = f"GET https://{HOST.upper()}:{port}?a HTTP/1.1\r\nHost: {HOST}.:{port}\r\n\r\n"
    await lab.ask(port, head.encode())
    assert site.heads.startswith(f"GET /?a HTTP/1.1\r\nHost: {HOST}:{port}\r\n".encode())


@pytest.mark.parametrize(
    "line, status",
    [
        (f"CONNECT {HOST}:443 HTTP/1.1", b"400"),
        ("CONNECT /x HTTP/1.1", b"405"),
        ("GET http://plain.test/ HTTP/1.1", b"400"),
        ("GET nowhere HTTP/1.1", b"400"),
    ],
)
async def test_targets_of_another_kind_are_refused(
    lab: SecretLab, line: str, status: bytes
) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    got = await lab.ask(port, f"{line}\r\nHost: {HOST}:{port}\r\n\r\n".encode())
    assert got.split(b" ")[1] == status
    assert site.got == []


@pytest.mark.parametrize(
    "lines, method",
    [
        (["Connection: Upgrade", "Upgrade: h2c"], "GET"),
        (["Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"], "GET"),
        (["Connection: Upgrade", "Upgrade: websocket"], "POST"),
        (["Connection: Upgrade", "Upgrade: websocket, h2c"], "GET"),
        (["Connection: Upgrade", "Upgrade: websocket", "Upgrade: x"], "GET"),
    ],
)
async def test_upgrades_other_than_a_plain_websocket_are_left_out(
    lab: SecretLab, lines: list[str], method: str
) -> None:
    site = Site(answer(b"as usual"))
    port = await lab.site(site)
    got = await lab.ask(port, request(port, *lines, method=method))
    assert got.endswith(b"as usual")
    assert b"upgrade" not in site.heads.lower()


async def test_a_server_that_switches_unasked_is_cut_off(lab: SecretLab) -> None:
    port = await lab.site(Site(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + VALUE))
    got = await lab.ask(port, request(port))
    assert got.startswith(b"HTTP/1.1 502 ")
    assert VALUE not in got


async def test_an_upgrade_of_http_1_0_is_left_out(lab: SecretLab) -> None:
    site = Site(answer(b"as usual"))
    port = await lab.site(site)
    asked = request(port, "Connection: Upgrade", "Upgrade: websocket")
    assert (await lab.ask(port, asked.replace(b"HTTP/1.1", b"HTTP/1.0"))).endswith(b"as usual")
    assert b"upgrade" not in site.heads.lower()


@pytest.mark.parametrize("apart", [False, True])
async def test_an_answer_that_nobody_asked_for_is_nobodys(lab: SecretLab, *, apart: bool) -> None:
    first, unasked = answer(b"one", close=False), answer(b"two", close=False)
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first if apart else first + unasked)
        if apart:
            await asked.wait()
            writer.write(unasked)
        await reader.read()  # it does not hang up

    port = await lab.site(serve)
    reader, writer = await lab.connect(port)
    writer.write(request(port))
    got = await reader.readuntil(b"one")
    asked.set()
    async with asyncio.timeout(10):
        if not apart:
            writer.write(request(port, path="/second"))
        got += await reader.read()
    assert got.endswith(b"one")


async def test_what_follows_an_upgrade_that_failed_is_a_request(lab: SecretLab) -> None:
    site = Site(answer(b"no", close=False), requests=2)
    port = await lab.site(site)
    reader, writer = await lab.connect(port)
    asked = request(port, "Connection: Upgrade", "Upgrade: websocket")
    writer.write(asked + request(port, f"X: {PLACEHOLDER}", f"Host-Of: {OTHER}", path="/second"))
    for _ in range(2):
        await reader.readuntil(b"no")
    assert b"X: " + VALUE in site.heads


@pytest.mark.parametrize("size", [60_000, 400_000])
async def test_huge_heads_are_refused(lab: SecretLab, size: int) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    reader, writer = await lab.connect(port)
    writer.write(request(port, "X: " + "a" * size))
    assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    assert site.got == []


async def test_values_do_not_make_a_head_huge(lab: SecretLab) -> None:
    lab.vault.values["github"] = b"v" * 4096
    port = await lab.site(Site(answer(b"")))
    got = await lab.ask(port, request(port, *[f"X{n}: {PLACEHOLDER}" for n in range(16)]))
    assert got.startswith(b"HTTP/1.1 431 ")


async def test_a_guest_that_hangs_up_leaves_nothing(lab: SecretLab) -> None:
    begun = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reader.read()

    port = await lab.site(silent)
    _, writer = await lab.connect(port)
    writer.write(request(port))
    await begun.wait()
    writer.transport.abort()
    while lab.proxy.active:  # noqa: ASYNC110 (the proxy has no event for this)
        await asyncio.sleep(0)
