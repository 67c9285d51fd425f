# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes from a guest or a server: no crash, no hang, and everything closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from waggle.infra.net import PeerGone, Stream, guest_request
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.forward import Exchange, HttpPeer
from waggle.infra.net.policy import Address, AddressPolicy

METHODS = [b"GET", b"HEAD", b"POST", b"CONNECT", b"OPTIONS", b"TRACE", b"get", b"", b"G\x00T"]
TARGETS = [
    *(b"http://10.0.0.1/", b"10.0.0.1:443", b"http://nowhere.test/", b"nowhere.test:443", b"/"),
    *(b"*", b"http://", b"http://[::1%25lo]/", b"http://a@b/", b"https://x/", b"\xff", b"a:b:c"),
]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b""]
HEADERS = [
    *(b"Host: x", b"Content-Length: 3", b"Content-Length: 99999999999999999999999", b"A:" * 3),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Expect: 100-continue", b"\x00"),
    *(b"Connection: close", b"Connection: upgrade", b"Upgrade: h2c", b" folded", b": none"),
]
NOISE = st.binary(max_size=40)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request-like message with noise anywhere."""
    line = b" ".join(draw(st.sampled_from(part)) for part in (METHODS, TARGETS, VERSIONS))
    lines = [line, *draw(st.lists(st.sampled_from(HEADERS) | NOISE, max_size=4))]
    end = draw(st.sampled_from([b"\r\n", b"\n", b"\r"]))
    return end.join([*lines, b"", b""]) + draw(NOISE)


class Recorder:
    """A writer that records what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.closed = False

    def write(self, data: bytes, /) -> None:
        self.got += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    async def wait_closed(self) -> None:
        pass


def fed(pieces: Sequence[bytes]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    return reader


async def nothing_resolves(name: str) -> Sequence[Address]:
    raise OSError


@settings(max_examples=400, deadline=None)
@given(st.lists(requests() | NOISE, max_size=4))
def test_any_bytes_of_a_guest_are_answered_or_dropped(pieces: list[bytes]) -> None:
    async def serve() -> Recorder:
        client = Recorder()
        proxy = EgressProxy(AddressPolicy(), nothing_resolves)
        async with asyncio.timeout(20):
            await proxy.serve(fed(pieces), client)
        assert proxy.active == 0
        return client

    client = asyncio.run(serve())
    assert client.closed
    if client.got:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        parser.receive_data(client.got)
        answer = parser.next_event()
        assert isinstance(answer, h11.Response)
        assert answer.status_code in (400, 403, 431, 501, 502)
        assert {name for name, _ in answer.headers} & {b"x-waggle-denied", b"x-waggle-error"}


ANSWERS = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 No\r\n\r\n"),
        *(b"HTTP/1.0 204 \r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"),
        *(
            b"Connection: x\r\n",
            b"\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"hello",
            b"A: b\xff\r\n",
        ),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(ANSWERS | NOISE, max_size=8), st.sampled_from([b"GET", b"HEAD"]))
def test_any_bytes_of_a_server_become_an_answer_or_a_cut(
    pieces: list[bytes], method: bytes
) -> None:
    async def exchange() -> tuple[bytes, bool]:
        recorder = Recorder()
        ask = b"%s http://a/ HTTP/1.1\r\nHost: a\r\n\r\n" % method
        client = HttpPeer(Stream(fed([ask]), recorder), h11.SERVER, 1000)
        server = HttpPeer(Stream(fed(pieces), Recorder()), h11.CLIENT, 1000)
        request = await client.next_event()
        assert isinstance(request, h11.Request)
        async with asyncio.timeout(20):
            try:
                await Exchange(client, server, "a").run(request, 10)
            except (guest_request.Refusal, PeerGone):
                return recorder.got, False
        return recorder.got, True

    got, whole = asyncio.run(exchange())
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(got)
    parser.receive_data(b"")
    try:
        while not isinstance(event := parser.next_event(), (h11.EndOfMessage, type)):
            assert isinstance(event, (h11.InformationalResponse, h11.Response, h11.Data))
        ended = isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        ended = False
    assert ended == whole  # only a complete answer looks complete to the guest
