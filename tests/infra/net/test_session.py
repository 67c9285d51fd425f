# SPDX-License-Identifier: Apache-2.0
"""One connection to the proxy: CONNECT, refusals, malformed requests and deadlines."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.guest_request import DialTimes, EgressLimits, printable

if TYPE_CHECKING:
    from tests.infra.net.lab import Advance, OpenLab, Turns

pytestmark = pytest.mark.anyio
QUICK = EgressLimits(header_seconds=0.2, linger_seconds=0.2)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer everything in capitals once the client has sent it all."""
    writer.write((await reader.read()).upper())


async def test_connect_tunnels_bytes_unchanged(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.site(shout)
        reader, writer = await lab.tunnel("open.test", site.port)
        writer.write(b"\x00hello\xff")
        writer.write_eof()
        assert await reader.read() == b"\x00HELLO\xff"
        assert site.connections == 1
        assert [(d.host, d.code, d.address) for d in lab.decisions] == [
            ("open.test", "allowed", "127.0.0.1")
        ]


async def test_bytes_sent_along_with_connect_are_not_lost(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.site(shout)
        reader, writer = await lab.connect()
        writer.write(f"CONNECT open.test:{site.port} HTTP/1.1\r\nHost: x\r\n\r\nearly ".encode())
        writer.write_eof()
        assert (await reader.read()).endswith(b"\r\n\r\nEARLY ")


async def test_traffic_is_counted(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.site(shout)
        reader, writer = await lab.tunnel("open.test", site.port)
        before = lab.proxy.traffic.to_guest
        writer.write(b"12345")
        writer.write_eof()
        await reader.read()
        assert lab.proxy.traffic.to_internet == 5
        assert lab.proxy.traffic.to_guest - before == 5
        assert (lab.proxy.traffic.connections, lab.proxy.traffic.refused) == (1, 0)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_a_denied_host_is_explained_and_not_connected_to(
    open_lab: OpenLab, method: str
) -> None:
    async with open_lab() as lab:
        site = await lab.forbidden()
        place = f"closed.test:{site.port}"
        target = place if method == "CONNECT" else f"http://{place}/"
        answer = await lab.ask(f"{method} {target} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"X-Waggle-Denied: loopback" in head
        assert b"Content-Type: text/plain" in head
        for part in (b"closed.test", b"loopback", b"WAGGLE_EGRESS_ALLOW_CIDRS"):
            assert part in body
        assert b"127.0.0.2" not in answer  # the answer of the host's name server is not disclosed
        assert site.connections == 0
        assert [(d.host, d.port, d.code) for d in lab.decisions] == [
            ("closed.test", site.port, "loopback")
        ]


async def test_head_is_refused_without_a_body(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        answer = await lab.ask(b"HEAD http://closed.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"\r\n\r\n")


async def test_a_closed_port_names_its_setting(open_lab: OpenLab) -> None:
    async with open_lab(ports=frozenset({443})) as lab:
        site = await lab.site(shout)
        answer = await lab.ask(
            f"CONNECT open.test:{site.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        assert b"X-Waggle-Denied: closed-port" in answer
        assert b"WAGGLE_EGRESS_PORTS" in answer
        assert (site.connections, lab.names.questions) == (0, [])


@pytest.mark.parametrize(
    "request_line,status",
    [
        (b"GET http://nowhere.test/ HTTP/1.1", b"502"),
        (b"CONNECT nowhere.test:443 HTTP/1.1", b"502"),
        (b"GET http://open.test:1/ HTTP/1.1", b"502"),
        (b"GET / HTTP/1.1", b"400"),
        (b"OPTIONS * HTTP/1.1", b"400"),
        (b"GET https://open.test/ HTTP/1.1", b"400"),
        (b"GET ftp://open.test/ HTTP/1.1", b"400"),
        (b"GET http://user:pw@open.test/ HTTP/1.1", b"400"),
        (b"GET http://open.test/#x HTTP/1.1", b"400"),
        (b"CONNECT open.test HTTP/1.1", b"400"),
        (b"CONNECT http://open.test/ HTTP/1.1", b"400"),
        (b"CONNECT open.test:0 HTTP/1.1", b"400"),
        (b"GET http://open.test/ HTTP/9.9.9", b"400"),
        (b"GET  http://open.test/ HTTP/1.1", b"400"),
        (b"PRI * HTTP/2.0", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"hello", b"400"),
        (b"GET http://open.test/ HTTP/1.1\r\nHost: again", b"400"),
        (b"GET http://open.test/ HTTP/1.1\r\nNo colon", b"400"),
        (b"GET http://open.test/ HTTP/1.1\r\nA: b\x00c", b"400"),
        (b"POST http://open.test/ HTTP/1.1\r\nContent-Length: -1", b"400"),
        (b"POST http://open.test/ HTTP/1.1\r\nContent-Length: 1, 2", b"400"),
        (b"POST http://open.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", b"400"),
        (b"POST http://open.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", b"501"),
        (
            b"POST http://open.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
            b"400",
        ),
        (b"POST http://open.test/ HTTP/1.0\r\nTransfer-Encoding: chunked", b"400"),
        (b"CONNECT open.test:443 HTTP/1.1\r\nContent-Length: 5", b"400"),
        (b"CONNECT open.test:443 HTTP/1.1\r\nTransfer-Encoding: chunked", b"400"),
        (b"GET http://open.test/ HTTP/1.1\r\nBig: " + b"x" * 70_000, b"431"),
        (b"GET http://open.test/" + b"x" * 70_000 + b" HTTP/1.1", b"431"),
    ],
)
async def test_every_failure_has_a_status(
    open_lab: OpenLab, request_line: bytes, status: bytes
) -> None:
    async with open_lab() as lab:
        answer = await lab.ask(request_line + b"\r\nHost: x\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status), answer
        assert b"X-Waggle-Error: " in head
        assert b"Connection: close" in head
        assert body.startswith(b"waggle: ")
        assert body.isascii()


async def test_a_slow_name_is_answered_with_504(open_lab: OpenLab) -> None:
    limits = EgressLimits(dial=DialTimes(dns=0.05))
    async with open_lab(limits) as lab:
        lab.names.silent.add("slow.test")
        answer = await lab.ask(b"GET http://slow.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"X-Waggle-Error: timeout" in answer


async def test_a_silent_name_server_is_distinguished_from_a_missing_address(
    open_lab: OpenLab,
) -> None:
    async with open_lab() as lab:
        for errno, status in ((socket.EAI_AGAIN, b"504"), (socket.EAI_NONAME, b"502")):
            lab.names.error = OSError(errno, "as it is")
            answer = await lab.ask(b"GET http://x.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "sent", [b"G", b"GET http://open.test/ HTTP/1.1\r\n", b"GET http://open.test/ HTTP/1.1\r\nA: "]
)
async def test_an_endless_head_is_cut_off(open_lab: OpenLab, sent: bytes) -> None:
    async with open_lab(QUICK) as lab:
        reader, writer = await lab.connect()
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_a_trickling_head_does_not_extend_its_deadline(
    open_lab: OpenLab, turns: Turns, advance: Advance
) -> None:
    async with open_lab(replace(QUICK, header_seconds=10)) as lab:
        reader, writer = await lab.connect()
        writer.write(b"GET http://open.test/ HTTP/1.1\r\n")
        for _ in range(3):
            await turns()
            advance(4)
            writer.write(b"A: b\r\n")
        assert (await reader.read(12)) == b"HTTP/1.1 408"


async def test_a_silent_connection_is_closed_without_an_answer(open_lab: OpenLab) -> None:
    async with open_lab(QUICK) as lab:
        reader, _ = await lab.connect()
        assert await reader.read() == b""


async def test_a_client_that_leaves_at_once_is_no_error(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        reader, writer = await lab.connect()
        writer.write_eof()
        assert await reader.read() == b""
        assert lab.proxy.traffic.refused == 0


def test_hosts_are_logged_and_shown_as_printable_text() -> None:
    assert printable("a\x00b\n\x1b[31mü c") == "a?b??[31m??c"
    assert len(printable("a" * 1000)) == 253
