# SPDX-License-Identifier: Apache-2.0
"""Answers inside ended TLS: values do not come back, and everything else does, unchanged."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import zstandard
from tests.infra.net.tls.secret_lab import PLACEHOLDER, VALUE, Site, answer, request

if TYPE_CHECKING:
    from tests.infra.net.tls.secret_lab import SecretLab

pytestmark = pytest.mark.anyio
STARS = b"*" * len(VALUE)
TOKEN = f"Authorization: Bearer {PLACEHOLDER}"


async def test_a_value_comes_back_as_asterisks_of_its_length(lab: SecretLab) -> None:
    body = b"before " + VALUE + b" after"
    port = await lab.site(Site(answer(body, f"X-Echo: {VALUE.decode()}")))
    got = await lab.ask(port, request(port, TOKEN))
    assert got.endswith(b"before " + STARS + b" after")
    assert f"Content-Length: {len(body)}\r\n".encode() in got
    assert b"X-Echo: " + STARS in got
    assert VALUE not in got


async def test_a_value_in_pieces_is_masked(lab: SecretLab) -> None:
    chunks = [b"1\r\n%c\r\n" % byte for byte in b"<" + VALUE + b">"]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    port = await lab.site(Site(head, *chunks, b"0\r\n\r\n"))
    got = await lab.ask(port, request(port, TOKEN))
    text = b"".join(got.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2])
    assert text.strip(b"0") == b"<" + STARS + b">"


async def test_it_is_masked_in_every_part_of_a_head(lab: SecretLab) -> None:
    value = lab.vault.values["github"] = b"a-value-of-a-token"
    heads = [
        b"HTTP/1.1 103 %b\r\nLink: <%b>\r\nX-%b: 1\r\n\r\n",
        b"HTTP/1.1 200 %b\r\nX: %b\r\nX-%b: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ]
    port = await lab.site(Site(*(head % (value, value, value) for head in heads)))
    got = await lab.ask(port, request(port, TOKEN))
    assert value not in got
    assert got.count(b"*" * len(value)) == 6


async def test_other_ways_to_a_server_are_not_told(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"", 'Alt-Svc: h3=":443"')))
    assert b"alt-svc" not in (await lab.ask(port, request(port, TOKEN))).lower()


async def test_its_encoded_forms_are_masked(lab: SecretLab) -> None:
    sent = base64.b64encode(b"user:" + VALUE)
    forms = [quote(VALUE, safe="").encode(), sent, base64.b64encode(b"ab" + VALUE + b"cd")]
    port = await lab.site(Site(answer(b"\n".join(forms))))
    packed = base64.b64encode(f"user:{PLACEHOLDER}".encode()).decode()
    got = await lab.ask(port, request(port, f"Authorization: Basic {packed}"))
    escaped, basic, other = got.partition(b"\r\n\r\n")[2].split(b"\n")
    assert escaped == b"*" * len(forms[0])
    assert basic == b"*" * len(sent)
    assert base64.b64decode(other.replace(b"*", b"A")).find(VALUE[3:6]) < 0


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "zstd"])
async def test_a_coding_nobody_asked_for_is_undone(lab: SecretLab, coding: str) -> None:
    body = b"x" * 100_000 + VALUE + os.urandom(1000)
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": lambda: gzip.compress(body[:5000]) + gzip.compress(body[5000:]),
        "deflate": lambda: zlib.compress(body),
        "raw": lambda: raw.compress(body) + raw.flush(),
        "zstd": lambda: zstandard.compress(body),
    }[coding]()
    name = coding.replace("raw", "deflate")
    site = Site(answer(packed, f"Content-Encoding: {name}"))
    port = await lab.site(site)
    got = await lab.ask(port, request(port, TOKEN, "Accept-Encoding: gzip, br"))
    assert b"accept-encoding: identity\r\n" in site.heads
    assert b"gzip, br" not in site.heads
    head, _, chunked = got.partition(b"\r\n\r\n")
    assert b"content-encoding" not in head.lower()
    assert _unchunked(chunked) == body.replace(VALUE, STARS)


def _unchunked(data: bytes) -> bytes:
    found = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return found
        found, data = found + data[: int(size, 16)], data[int(size, 16) + 2 :]


async def test_a_coding_that_cannot_be_undone_is_refused(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"????", "Content-Encoding: br")))
    got = await lab.ask(port, request(port, TOKEN))
    assert got.startswith(b"HTTP/1.1 502 ")
    assert b"X-Waggle-Error: content-encoding\r\n" in got


async def test_damaged_gzip_breaks_off(lab: SecretLab) -> None:
    port = await lab.site(
        Site(answer(gzip.compress(b"hello")[:8] + b"????", "Content-Encoding: gzip"))
    )
    got = await lab.ask(port, request(port, TOKEN))
    assert not got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_pass(lab: SecretLab, status: bytes) -> None:
    reply = b"HTTP/1.1 " + status + b"\r\nETag: x\r\nContent-Encoding: br\r\n\r\n"
    port = await lab.site(Site(reply, requests=2))
    reader, writer = await lab.connect(port)
    for _ in range(2):
        writer.write(request(port, TOKEN))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)


async def test_head_has_a_length_and_no_body(lab: SecretLab) -> None:
    port = await lab.site(Site(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", requests=2))
    reader, writer = await lab.connect(port)
    for _ in range(2):
        writer.write(request(port, TOKEN, method="HEAD"))
        assert b"Content-Length: 99" in await reader.readuntil(b"\r\n\r\n")


async def test_the_server_decides_about_100_continue(lab: SecretLab) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        got.append(await reader.readexactly(4))
        writer.write(answer(b"done"))

    port = await lab.site(serve)
    reader, writer = await lab.connect(port)
    writer.write(request(port, TOKEN, "Expect: 100-continue", "Content-Length: 4", method="PUT"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(b"body")
    assert (await reader.read()).endswith(b"done")
    assert b"Expect: 100-continue" in got[0]
    assert got[1] == b"body"


async def test_an_answer_that_ends_with_its_connection_passes(lab: SecretLab) -> None:
    port = await lab.site(Site(b"HTTP/1.0 200 OK\r\n\r\n", b"all ", VALUE, b" there"))
    got = await lab.ask(port, request(port, TOKEN))
    assert _unchunked(got.partition(b"\r\n\r\n")[2]) == b"all " + STARS + b" there"


async def test_large_bodies_go_both_ways(lab: SecretLab) -> None:
    body = os.urandom(3 << 20)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for _ in range(3):
            writer.write(await reader.readexactly(1 << 20))
            await writer.drain()

    port = await lab.site(echo)
    reader, writer = await lab.connect(port)
    writer.write(request(port, TOKEN, f"Content-Length: {len(body)}", method="POST"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(body)
    assert await reader.readexactly(len(body)) == body


async def test_an_event_is_not_held_back(lab: SecretLab) -> None:
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: one\n\n")
        await writer.drain()
        await more.wait()

    port = await lab.site(serve)
    reader, writer = await lab.connect(port)
    writer.write(request(port, TOKEN))
    assert await reader.readuntil(b"data: one\n\n")
    more.set()
