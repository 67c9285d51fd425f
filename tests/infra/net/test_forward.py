# SPDX-License-Identifier: Apache-2.0
"""Plain HTTP through the proxy: which headers are passed on, and where messages end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.guest_request import EgressLimits

if TYPE_CHECKING:
    from tests.infra.net.lab import Lab, OpenLab, Site

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


async def fetch(
    lab: Lab, site: Site, *headers: str, method: str = "GET", body: bytes = b""
) -> bytes:
    lines = [f"{method} http://open.test:{site.port}/p?q=1 HTTP/1.1", "Host: lies.test", *headers]
    return await lab.ask("\r\n".join([*lines, "Connection: close"]).encode() + END + body)


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().rstrip().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def test_the_request_is_made_in_origin_form_with_the_host_of_its_url(
    open_lab: OpenLab,
) -> None:
    async with open_lab() as lab:
        site = await lab.web(OK)
        answer = await fetch(lab, site, "Accept: */*")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(END + b"ok")
        assert site.heads[0].startswith(b"GET /p?q=1 HTTP/1.1\r\n")
        seen = headers_of(site.heads[0])
        assert seen["host"] == f"open.test:{site.port}"
        assert seen["accept"] == "*/*"
        assert seen["connection"] == "close"


async def test_hop_by_hop_headers_are_not_forwarded(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.web(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n"
            b"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
            b"X-Kept: 1\r\n\r\nok"
        )
        answer = await fetch(
            lab,
            site,
            *("Proxy-Authorization: Basic c2VjcmV0", "Proxy-Connection: keep-alive"),
            *("TE: trailers", "Upgrade: websocket", "HTTP2-Settings: x", "Keep-Alive: 1"),
            *("Connection: X-Hop, Host", "X-Hop: 1", "X-End: 1"),
        )
        assert set(headers_of(site.heads[0])) == {"host", "connection", "x-end"}
        assert set(headers_of(answer.partition(END)[0])) == {
            *("content-length", "x-kept", "connection")
        }


async def test_connection_cannot_remove_the_framing_headers(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.site(echo_length)
        answer = await fetch(
            lab,
            site,
            *("Connection: Content-Length", "Content-Length: 5"),
            method="POST",
            body=b"hello",
        )
        assert answer.endswith(END + b"hello")


async def echo_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(END)
    body = await reader.readexactly(int(headers_of(head)["content-length"]))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def test_a_chunked_body_arrives_chunked(open_lab: OpenLab) -> None:
    seen: list[bytes] = []

    async def site_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(END))
        seen.append(await reader.readuntil(b"\r\n0\r\n\r\n"))
        writer.write(OK)

    async with open_lab() as lab:
        site = await lab.site(site_handler)
        body = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
        answer = await fetch(lab, site, "Transfer-Encoding: chunked", method="PUT", body=body)
        assert answer.endswith(END + b"ok")
        assert headers_of(seen[0])["transfer-encoding"] == "chunked"
        assert seen[1] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "answer,expected",
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"d\r\nuntil the end\r\n0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"3\r\nold\r\n0\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n"
            b"2\r\nhi\r\n0\r\nT: 1\r\n\r\n",
            b"2\r\nhi\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
    ],
)
async def test_answers_are_framed_again(open_lab: OpenLab, answer: bytes, expected: bytes) -> None:
    async with open_lab() as lab:
        head, _, body = (await fetch(lab, await lab.web(answer))).partition(END)
        assert body == expected
        assert not (b"transfer-encoding" in head.lower() and b"content-length" in head.lower())


async def test_an_answer_to_head_has_no_body(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.web(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        answer = await fetch(lab, site, method="HEAD")
        assert headers_of(answer)["content-length"] == "1000"
        assert answer.endswith(END)


async def test_requests_may_be_pipelined_and_are_answered_in_order(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.web(OK)
        one = f"GET http://open.test:{site.port}/%d HTTP/1.1\r\nHost: x\r\n\r\n"
        last = f"GET http://open.test:{site.port}/3 HTTP/1.0\r\n\r\n"
        answer = await lab.ask((one % 1 + one % 2 + last).encode())
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert [head.split()[1] for head in site.heads] == [b"/1", b"/2", b"/3"]
        assert site.connections == 3


async def test_a_pipelined_request_is_judged_like_the_first(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site, secret = await lab.web(OK), await lab.forbidden()
        answer = await lab.ask(
            f"GET http://open.test:{site.port}/ HTTP/1.1\r\nHost: x\r\n\r\n"
            f"GET http://closed.test:{secret.port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"HTTP/1.1 403 " in answer
        assert (site.connections, secret.connections) == (1, 0)


async def test_a_redirect_to_a_denied_address_leads_nowhere(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        secret = await lab.forbidden()
        place = f"http://closed.test:{secret.port}/".encode()
        site = await lab.web(
            b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % place
        )
        moved = await fetch(lab, site)
        assert headers_of(moved.partition(END)[0])["location"] == place.decode()
        followed = await lab.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % place)
        assert followed.startswith(b"HTTP/1.1 403 ")
        assert secret.connections == 0


async def test_expect_100_continue_is_answered_by_the_server(open_lab: OpenLab) -> None:
    async def site_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(END)
        assert headers_of(head)["expect"] == "100-continue"
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + await reader.readexactly(5))

    async with open_lab() as lab:
        site = await lab.site(site_handler)
        reader, writer = await lab.connect()
        writer.write(
            f"PUT http://open.test:{site.port}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"Content-Length: 5\r\n\r\n".encode()
        )
        assert (await reader.readuntil(END)).startswith(b"HTTP/1.1 100 ")
        writer.write(b"hello")
        assert (await reader.readuntil(END)).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(5) == b"hello"


async def test_an_early_answer_ends_the_upload(open_lab: OpenLab) -> None:
    async def site_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(END)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    async with open_lab() as lab:
        site = await lab.site(site_handler)
        answer = await fetch(lab, site, "Content-Length: 1000000", method="PUT", body=b"x" * 10)
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBig: " + b"x" * 100_000,
    ],
)
async def test_a_malformed_answer_becomes_502(open_lab: OpenLab, answer: bytes) -> None:
    async with open_lab() as lab:
        got = await fetch(lab, await lab.web(answer), "Upgrade: websocket")
        assert got.startswith(b"HTTP/1.1 502 "), got
        assert b"X-Waggle-Error: bad-answer" in got


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
async def test_a_truncated_answer_does_not_look_complete(open_lab: OpenLab, answer: bytes) -> None:
    async with open_lab() as lab:
        head, _, body = (await fetch(lab, await lab.web(answer))).partition(END)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert not body.endswith(b"0\r\n\r\n")
        assert len(body) < 10


@pytest.mark.parametrize("body", [b"zz\r\n", b"3\r\nabcd\r\n", b"3\r\nab"])
async def test_a_malformed_body_is_refused(open_lab: OpenLab, body: bytes) -> None:
    async def site_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert not (await reader.read()).endswith(b"0\r\n\r\n")

    async with open_lab() as lab:
        site = await lab.site(site_handler)
        reader, writer = await lab.connect()
        head = f"PUT http://open.test:{site.port}/ HTTP/1.1\r\nHost: x\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body)
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        assert site.connections == 1


async def test_a_server_that_never_answers_becomes_504(open_lab: OpenLab) -> None:
    async with open_lab(EgressLimits(idle_seconds=0.1)) as lab:
        hung = asyncio.Event()

        async def site_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()  # until the proxy gives up
            hung.set()

        answer = await fetch(lab, await lab.site(site_handler))
        assert answer.startswith(b"HTTP/1.1 504 ")
        await hung.wait()
