# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 from hostile clients: ambiguous input is refused, and nothing grows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json

import anyio
import pytest
from tests.support.garbage import no_collection
from tests.support.server import INITIALIZE, Setup, serving
from tests.support.waiting import until

from waggle.web.protocol import GuardedProtocol
from waggle.web.server import ServerLimits

pytestmark = pytest.mark.anyio
HOST = b"Host: localhost\r\n"
BODY = json.dumps(INITIALIZE).encode()
POST = b"POST /mcp HTTP/1.1\r\nAccept: application/json, text/event-stream\r\n"
LAST = b"Connection: close\r\n"
TYPE = b"Content-Type: application/json\r\n"
SMALL = Setup(limits=ServerLimits(grace=0, head_bytes=1_000))


async def opened(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def exchange(url: str, *parts: bytes) -> bytes:
    """Send `parts` and return all that the server answers until it closes; empty after a reset."""
    reader, writer = await opened(url)
    try:
        with anyio.fail_after(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        await ended(writer)


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X : y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b" X: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"GET /healthz HTTP/1.1\n" + b"Host: localhost\n\n",
        b"GET /healthz HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET http://[/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        POST + HOST + b"Content-Length: 1, 1\r\n\r\n{}",
        POST + HOST + b"Content-Length: +1\r\n\r\n{}",
        POST + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        POST + HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        POST + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_an_ambiguous_head_is_refused(head: bytes) -> None:
    async with serving() as rig:
        answer = await exchange(rig.url, head)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("bad", [b"x\r\n{}\r\n0\r\n\r\n", b"2\r\n{}x\r\n0\r\n\r\n", b"-1\r\n"])
async def test_a_malformed_chunk_ends_the_connection(bad: bytes) -> None:
    async with serving() as rig:
        head = POST + LAST + TYPE + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = await exchange(rig.url, head + bad)
        assert b"HTTP/1.1 200 " not in answer


async def test_spaces_around_a_header_value_are_ignored() -> None:
    async with serving() as rig:
        head = POST + LAST + b"Content-Type: \t application/json \t \r\nHost:  localhost  \r\n"
        answer = await exchange(rig.url, head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_trailers_are_not_headers() -> None:
    async with serving() as rig:
        head = POST + LAST + TYPE + HOST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY)
        trailers = b"\r\n0\r\nMcp-Session-Id: a\r\nHost: evil.example\r\n\r\n"
        answer = await exchange(rig.url, head + BODY + trailers)
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("step", [50, 100_000])
async def test_a_head_has_a_limit(step: int) -> None:
    many = b"".join(b"X-%d: y\r\n" % number for number in range(200))
    heads = [HOST + many + b"\r\n", HOST + b"X: " + b"y" * 2_000, b"X" * 2_000]
    async with serving(SMALL) as rig:
        for head in heads:
            sent = b"GET /healthz HTTP/1.1\r\n" + head
            parts = [sent[at : at + step] for at in range(0, len(sent), step)]
            answer = await exchange(rig.url, *parts)
            assert not answer or answer.startswith(b"HTTP/1.1 400 ")


async def test_a_long_path_counts_as_part_of_the_head() -> None:
    async with serving(SMALL) as rig:
        for end in (b" HTTP/1.1\r\n" + HOST + b"\r\n", b""):
            answer = await exchange(rig.url, b"GET /" + b"x" * 2_000 + end)
            assert answer.startswith(b"HTTP/1.1 400 ")


async def test_trailers_have_a_limit() -> None:
    async with serving(SMALL) as rig:
        head = POST + LAST + TYPE + HOST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY)
        answer = await exchange(rig.url, head + BODY + b"\r\n0\r\nX: ", *[b"y" * 300_000] * 3)
        assert b"HTTP/1.1 200 " not in answer


async def test_two_requests_in_one_packet_are_answered_in_order() -> None:
    async with serving(SMALL) as rig:
        length = b"Content-Length: %d\r\n\r\n" % len(BODY)
        first = POST + TYPE + HOST + length + BODY
        second = b"GET /healthz HTTP/1.1\r\n" + HOST + LAST + b"\r\n"
        answer = await exchange(rig.url, first + second)
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert answer.endswith(b'{"status":"ok"}')


async def test_a_client_that_offers_http_2_is_served_all_its_requests() -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    async with serving() as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(rig.url.rpartition(":")[2]))
        with anyio.fail_after(5):
            for more in (offer, b""):
                writer.write(POST + TYPE + HOST + more + length + BODY)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                size = next(x for x in head.split(b"\r\n") if x.lower().startswith(b"content-len"))
                await reader.readexactly(int(size.partition(b":")[2]))
        await ended(writer)


async def test_an_answer_without_a_body_is_whole() -> None:
    async with serving() as rig:
        head = b"HEAD /healthz HTTP/1.1\r\n" + HOST
        answer = await exchange(rig.url, head + LAST + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 ")
        assert answer.endswith(b"\r\n\r\n")


def connections() -> int:
    return sum(isinstance(one, GuardedProtocol) for one in gc.get_objects())


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.1\r\n" + LAST + HOST + b"\r\n"])
async def test_a_connection_that_ended_is_freed_at_once(head: bytes) -> None:
    """Otherwise garbage collection of thousands of past connections would stop the server."""
    async with serving() as rig:
        with no_collection():
            for _ in range(3):
                reader, writer = await opened(rig.url)
                writer.write(head)
                await until(lambda: connections() > 0)
                if head:
                    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
                await ended(writer)
            await until(lambda: not connections(), 10)
