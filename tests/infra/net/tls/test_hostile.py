# SPDX-License-Identifier: Apache-2.0
"""Guests and servers that flood, stall or hang up inside ended TLS: bounds, deadlines, no rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import cast

import pytest
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from tests.infra.net.tls.h2_peers import Asked, H2Client, H2Site, Reply
from tests.infra.net.tls.secret_lab import PLACEHOLDER, SecretLab, Site, answer, request

from waggle.infra.net.guest_request import EgressLimits

pytestmark = pytest.mark.anyio
SHORT = EgressLimits(header_seconds=0.2, idle_seconds=0.3, linger_seconds=0.1)


@contextlib.asynccontextmanager
async def impatient() -> AsyncGenerator[SecretLab]:
    """Return a lab whose deadlines are short."""
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = SecretLab(stack)
        await lab.start(SHORT)
        yield lab


async def hello(_: Asked) -> Reply:
    return Reply([], [b"hello"])


def pings() -> list[Frame]:
    return [PingFrame(0, opaque_data=b"12345678")]


def settings() -> list[Frame]:
    return [SettingsFrame(0, settings={int(SettingCodes.HEADER_TABLE_SIZE): 100})]


def empty_data() -> list[Frame]:
    return [DataFrame(1, data=b"")]


def windows() -> list[Frame]:
    return [WindowUpdateFrame(0, window_increment=1)]


def priorities() -> list[Frame]:
    return [PriorityFrame(3, depends_on=0, stream_weight=1)]


def continuations() -> list[Frame]:
    return [ContinuationFrame(3, data=b"")]


def unknown() -> list[Frame]:
    frame = PingFrame(0, opaque_data=b"12345678")
    frame.type = 200
    return [frame]


FLOODS: list[Callable[[], list[Frame]]] = [
    pings,
    settings,
    empty_data,
    windows,
    priorities,
    continuations,
    unknown,
]


@pytest.mark.parametrize("flood", FLOODS)
async def test_floods_of_frames_end_the_connection(
    lab: SecretLab, flood: Callable[[], list[Frame]]
) -> None:
    port = await lab.site(H2Site(hello), "h2")
    async with H2Client(lab, port) as http:
        http.request([], method=b"POST")
        http.peer.flush()
        if flood is continuations:
            http.peer.writer.write(HeadersFrame(3, data=b"").serialize())
        frames = b"".join(frame.serialize() for frame in flood())
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                http.peer.writer.write(frames * 100)
                await http.peer.writer.drain()
        with contextlib.suppress(ConnectionError, Exception):
            await http.peer.reader.read()
    while lab.proxy.active:  # noqa: ASYNC110 (the proxy has no event for this)
        await asyncio.sleep(0)


async def test_rapid_resets_end_the_connection(lab: SecretLab) -> None:
    site = H2Site(hello)
    port = await lab.site(site, "h2")
    async with H2Client(lab, port) as http:
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                http.peer.http.reset_stream(http.request([], end=True))
                http.peer.flush()
                await http.peer.writer.drain()
    while lab.proxy.active:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert len(site.got) < 300


async def test_a_header_bomb_is_refused(lab: SecretLab) -> None:
    site = H2Site(hello)
    port = await lab.site(site, "h2")
    async with H2Client(lab, port) as http:
        # One long header, and thousands of references to it in the table.
        long = [(b"x", b"a" * 3000)] * 5000
        http.request(long, end=True)
        http.peer.flush()
        await http.peer.reader.read()
    assert site.got == []


async def test_a_frame_larger_than_agreed_is_refused(lab: SecretLab) -> None:
    port = await lab.site(H2Site(hello), "h2")
    async with H2Client(lab, port) as http:
        http.peer.writer.write(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 100)
        await http.peer.reader.read()


async def test_more_streams_than_agreed_end_the_connection(lab: SecretLab) -> None:
    port = await lab.site(H2Site(hello), "h2")
    async with H2Client(lab, port) as http:
        for _ in range(70):
            http.request([], method=b"POST")
        http.peer.flush()
        await http.peer.reader.read()


async def test_a_flood_from_the_server_ends_the_connection(lab: SecretLab) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SettingsFrame(0).serialize())
        while True:
            writer.write(PingFrame(0, opaque_data=b"12345678").serialize() * 100)
            await writer.drain()

    port = await lab.site(flood, "h2")
    async with H2Client(lab, port) as http:
        http.request([], end=True)
        http.peer.flush()
        await http.peer.reader.read()


class Endless(list[bytes]):
    """A body of 200 MiB, of which `sent` bytes were asked for."""

    sent = 0

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[bytes]:
        while self.sent < 200 << 20:
            self.sent += 65536
            yield bytes(65536)


async def test_a_guest_that_opens_its_windows_and_never_reads_stops_the_server(
    lab: SecretLab,
) -> None:
    """The kernel's buffers hold a few MB, and the proxy little more, although h2 allows 2 GiB."""
    body = Endless()

    async def endless(_: Asked) -> Reply:
        return Reply([], body)

    site = H2Site(endless)
    port = await lab.site(site, "h2")
    async with H2Client(lab, port) as http:
        http.peer.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        http.peer.http.increment_flow_control_window(2**31 - 1 - 65535)
        stream = http.request([], end=True)
        http.peer.flush()
        transport = cast("asyncio.Transport", http.peer.writer.transport)
        transport.pause_reading()
        before = -1
        while before != body.sent or not body.sent:
            before = body.sent
            for _ in range(2000):
                await asyncio.sleep(0)
        assert body.sent < 32 << 20
        http.peer.http.reset_stream(stream)
        http.peer.flush()
        transport.resume_reading()
        while site.got[0].reset is None:
            await http.peer.reader.read(1 << 20)


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_a_server_that_never_answers_is_too_slow(protocol: str) -> None:
    async def never(_: Asked) -> Reply:
        return await asyncio.get_running_loop().create_future()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(100_000)
        await reader.read()

    async with impatient() as lab:
        if protocol == "h2":
            port = await lab.site(H2Site(never), "h2")
            async with H2Client(lab, port) as http:
                got = await http.answer(http.request([], end=True))
            assert dict(got.headers)[b":status"] == b"504"
        else:
            port = await lab.site(silent)
            got1 = await lab.ask(port, request(port, f"Authorization: {PLACEHOLDER}"))
            assert got1.startswith(b"HTTP/1.1 504 ")


async def test_handshakes_have_a_rate(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    lab.handshakes.take(198)
    await lab.tunnel(port)  # it costs nothing yet
    for _ in range(2):
        assert not lab.handshakes.is_over
        assert await lab.ask(port, request(port))
    assert lab.handshakes.is_over, "the next one would wait"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_handshake_that_never_ends_is_given_up(sent: bytes) -> None:
    async with impatient() as lab:
        port = await lab.site(Site(answer(b"")))
        reader, writer = await lab.tunnel(port)
        writer.write(sent)
        assert await reader.read() == b""


async def test_a_head_that_is_never_finished_has_a_deadline() -> None:
    async with impatient() as lab:
        port = await lab.site(Site(answer(b"")))
        reader, writer = await lab.connect(port)
        writer.write(request(port)[:-1])
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_is_not_used_ends() -> None:
    async with impatient() as lab:
        port = await lab.site(Site(answer(b"")))
        reader, _ = await lab.connect(port)
        assert await reader.read() == b""
        http2 = await lab.site(H2Site(hello), "h2")
        async with H2Client(lab, http2) as http:
            http.peer.flush()
            await http.peer.reader.read()


async def test_a_guest_that_never_reads_a_body_is_given_up() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with impatient() as lab:
        port = await lab.site(endless)
        _, writer = await lab.connect(port)
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(request(port))
        while lab.proxy.active:  # noqa: ASYNC110
            await asyncio.sleep(0)
