# SPDX-License-Identifier: Apache-2.0
"""Requests that two parsers could read differently: a server gets one strict message, or nothing.

Each connection to a server carries one request that the proxy wrote anew, so that a second one
hidden in the first reaches nobody.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.infra.net.lab import Lab, OpenLab, Site

pytestmark = pytest.mark.anyio
HEAD = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ /[!-~]* HTTP/1\.1\r\n"
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[\t -~\x80-\xff]*\r\n)+\r\n"
)
FRAMING = re.compile(rb"(?im)^(content-length|transfer-encoding): ?(.*)\r$")
CHUNKS = re.compile(rb"([0-9a-f]+\r\n(?s:.*?)\r\n)*?0\r\n\r\n")
HIDDEN = b"GET http://closed.test/hidden HTTP/1.1\r\nHost: closed.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Strict:
    """A server that records all it gets on each connection, and answers once a head is there."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got.append(b"")
        number = len(self.got) - 1
        while data := await reader.read(65_536):
            self.got[number] += data
            if is_whole(self.got[number]):
                writer.write(OK)

    def check(self) -> None:
        """Assert that each connection got at most one message, which reads in one way only."""
        for got in self.got:
            assert is_whole(got), got
            assert b"hidden" not in got.partition(b"\r\n\r\n")[0], got


def is_whole(message: bytes) -> bool:
    """Whether this is exactly one strict message; raises if it can never become one."""
    head, end, body = message.partition(b"\r\n\r\n")
    if not end:
        return False
    assert HEAD.fullmatch(head + end), head
    framed = FRAMING.findall(head + b"\r\n")
    assert len(framed) <= 1, head
    if not framed:
        assert not body, message
        return True
    name, value = framed[0]
    if name.lower() == b"content-length":
        assert re.fullmatch(rb"[0-9]+", value), head
        assert len(body) <= int(value), message
        return len(body) == int(value)
    assert value == b"chunked", head
    return CHUNKS.fullmatch(body) is not None


async def send(lab: Lab, site: Site, lines: bytes, body: bytes, line_end: bytes = b"\r\n") -> bytes:
    """Return the answers to a POST with these header lines, and `HIDDEN` after its body."""
    head = f"POST http://open.test:{site.port}/ HTTP/1.1".encode()
    reader, writer = await lab.connect()
    writer.write(line_end.join([head, b"Host: x", lines, b"", b""]) + body + HIDDEN)
    writer.write_eof()
    try:
        answer = await reader.read()
    except ConnectionError:
        answer = b""
    writer.close()
    return answer


CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 6",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: 5_0",
        b"Content-Length: 5 5",
        b"Content-Length: -0",
        b"Content-Length:",
        b"Content-Length: " + b"9" * 30,
        b"Content-Length : 5",
        b"Content-Length\x00: 5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0",
        b"Content-Length: 5\r\nTransfer-Encoding:\r\n chunked",
        b"Content-Length: 5\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b"X: a\rTransfer-Encoding: chunked",
        b"X: a\x00b",
        b"X\rY: a",
        b": nameless",
    ],
)
async def test_a_request_of_uncertain_length_reaches_no_server(
    open_lab: OpenLab, lines: bytes
) -> None:
    async with open_lab() as lab:
        strict = Strict()
        site, hidden = await lab.site(strict), await lab.forbidden()
        answer = await send(lab, site, lines, CHUNKED)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert (site.connections, hidden.connections) == (0, 0)


async def test_chunks_are_unknown_to_http_1_0(open_lab: OpenLab) -> None:
    """Servers differ in whether they take a body of HTTP/1.0 for chunks."""
    async with open_lab() as lab:
        site = await lab.site(Strict())
        head = b"POST http://open.test:%d/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await lab.ask(head % site.port + CHUNKED + HIDDEN)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert site.connections == 0


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    "lines,body",
    [
        (b"Content-Length: 5\r\nContent-Length: 5", b"hello"),
        (b"Content-Length: 5, 5", b"hello"),
        (b"Content-Length: 005", b"hello"),
        (b"X: folded\r\n once\r\n\tagain\r\nContent-Length: 5", b"hello"),
        (b"Content-Length:\r\n 5", b"hello"),
        (b"Transfer-Encoding: CHUNKED", CHUNKED),
        (b"Transfer-Encoding:\r\n chunked", CHUNKED),
        (b"Transfer-Encoding: chunked", b"005;a=b\r\nhello\r\n0;c\r\nX-Trailer: 1\r\n\r\n"),
        (b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5", b"hello"),
        (b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: upgrade, http2-settings", b""),
        (b"Connection: content-length, host\r\nContent-Length: 5", b"hello"),
        (b"Proxy-Connection: keep-alive\r\nTE: trailers, chunked\r\nContent-Length: 5", b"hello"),
    ],
)
async def test_a_request_is_written_anew_and_the_next_is_judged_by_itself(
    open_lab: OpenLab, lines: bytes, body: bytes, line_end: bytes
) -> None:
    async with open_lab() as lab:
        strict = Strict()
        site, hidden = await lab.site(strict), await lab.forbidden()
        answer = await send(lab, site, lines.replace(b"\r\n", line_end), body, line_end)
        strict.check()
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b"HTTP/1.1 403 " in answer, "the second request is judged"
        (got,) = strict.got
        assert f"Host: open.test:{site.port}\r\n".encode() in got
        assert not re.search(rb"(?i)upgrade|http2|trailer|keep-alive", got)
        assert hidden.connections == 0


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\n0\n\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"10000000000000000000005\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_a_malformed_chunk_ends_the_connection(open_lab: OpenLab, body: bytes) -> None:
    async with open_lab() as lab:
        strict = Strict()
        site, hidden = await lab.site(strict), await lab.forbidden()
        answer = await send(lab, site, b"Transfer-Encoding: chunked", body)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert not any(is_whole(got) for got in strict.got)
        assert hidden.connections == 0


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"http://open.test@closed.test/",
            b"http://closed.test:80@open.test/",
            b"http://@open.test/",
        ),
        *(b"http://open.test#@closed.test/", b"http://open.test\\@closed.test/", b"//open.test/"),
        *(
            b"ftp://open.test/",
            b"file:///etc/passwd",
            b"gopher://open.test:1/_x",
            b"ws://open.test/",
        ),
        *(b"http:open.test/", b"http:///open.test/", b"http://open.test:80:81/", b"http://[::1/"),
        *(b"http://open.test\tx/", b"http://open.test/\x7f", b"http://open%2etest/", b"http://*/"),
        *(b"http://open.test,closed.test/", b"http://op\xc3\xa9n.test/", b"http://open..test/"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"CONNECT"])
async def test_an_odd_target_is_refused(open_lab: OpenLab, method: bytes, target: bytes) -> None:
    async with open_lab() as lab:
        answer = await lab.ask(b"%s %s HTTP/1.1\r\nHost: open.test\r\n\r\n" % (method, target))
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert lab.names.questions == []


@pytest.mark.parametrize("length", [b"0", b"5"])
async def test_a_connect_has_no_body(open_lab: OpenLab, length: bytes) -> None:
    async with open_lab() as lab:
        site = await lab.site(Strict())
        head = b"CONNECT open.test:%d HTTP/1.1\r\nHost: x\r\n" % site.port
        answer = await lab.ask(head + b"Content-Length: %s\r\n\r\n" % length + HIDDEN)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert site.connections == 0


async def test_what_follows_a_connect_goes_into_the_tunnel(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        got: list[bytes] = []

        async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append(await reader.read())

        site, hidden = await lab.site(record), await lab.forbidden()
        reader, writer = await lab.connect()
        head = b"CONNECT open.test:%d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" % site.port
        writer.write(head + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n" + HIDDEN)
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        assert got == [HIDDEN]
        assert hidden.connections == 0


NAMES = st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"X", b"Connection", b"Host"])
VALUES = st.sampled_from([b"5", b"0", b"chunked", b"chunked, chunked", b"5,5", b"close", b"", b"6"])
BETWEEN = st.sampled_from([b": ", b":", b" : ", b":\t", b":\r\n ", b":\n "])
ENDS = st.sampled_from([b"\r\n", b"\n", b"\r\n ", b"\r"])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it only gives a function
)
@given(
    lines=st.lists(st.tuples(NAMES, BETWEEN, VALUES, ENDS).map(b"".join), max_size=4).map(b"".join),
    body=st.lists(st.sampled_from([CHUNKED, b"hello", b"5\r\n", b"0\r\n\r\n", b"\n"]), max_size=3),
)
def test_no_mix_of_lengths_hides_a_request(
    open_lab: OpenLab, lines: bytes, body: list[bytes]
) -> None:
    async def run() -> None:
        async with open_lab() as lab:
            strict = Strict()
            site, hidden = await lab.site(strict), await lab.forbidden()
            head = f"POST http://open.test:{site.port}/ HTTP/1.1\r\n".encode()
            reader, writer = await lab.connect()
            writer.write(head + lines + b"\r\n" + b"".join(body) + HIDDEN)
            writer.write_eof()
            await reader.read()
            assert hidden.connections == 0
            for got in strict.got:
                is_whole(got)

    asyncio.run(run())
