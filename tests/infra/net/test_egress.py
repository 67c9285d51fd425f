# SPDX-License-Identifier: Apache-2.0
"""The proxy as a whole: limits, large bodies, cancellation and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import struct
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.guest_request import EgressLimits

if TYPE_CHECKING:
    from tests.infra.net.lab import Lab, OpenLab

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024
PIECE = bytes(range(256)) * 256


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_connection_over_the_limit_gets_503_and_a_freed_slot_serves_again(
    open_lab: OpenLab,
) -> None:
    async with open_lab(EgressLimits(connections=2)) as lab:
        site = await lab.site(silent)
        first = await lab.tunnel("open.test", site.port)
        await lab.tunnel("open.test", site.port)
        assert lab.proxy.active == 2
        answer = await lab.ask(b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"X-Waggle-Error: too-many-connections" in answer
        first[1].write_eof()
        assert await first[0].read() == b""
        first[1].close()
        await lab.served.acquire()  # the 503
        await lab.served.acquire()  # the first tunnel
        await lab.tunnel("open.test", site.port)
        assert site.connections == 3


async def test_a_flood_of_connections_is_not_even_answered(open_lab: OpenLab) -> None:
    async with open_lab(EgressLimits(connections=1)) as lab:
        site = await lab.site(silent)
        await lab.tunnel("open.test", site.port)
        flood = [await lab.connect() for _ in range(40)]
        answers = await asyncio.gather(
            *(reader.read(12) for reader, _ in flood), return_exceptions=True
        )
        assert answers.count(b"HTTP/1.1 503") == 16
        assert lab.proxy.active == 1


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_ending_the_proxy_drops_both_sides(open_lab: OpenLab, how: str) -> None:
    async with open_lab() as lab:
        gone = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            gone.set()

        site = await lab.site(wait)
        reader, _ = await lab.tunnel("open.test", site.port)
        if how == "close":
            await lab.proxy.aclose()
            assert lab.proxy.active == 0
            with contextlib.suppress(ConnectionError):
                assert await (await lab.connect())[0].read() == b""
        else:
            for task in lab.proxy._serving:
                task.cancel()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await gone.wait()


@pytest.mark.parametrize("side", ["guest", "server"])
async def test_a_side_that_vanishes_ends_the_other(open_lab: OpenLab, side: str) -> None:
    async with open_lab() as lab:
        gone = asyncio.Event()

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while side == "guest":
                    writer.write(PIECE)
                    await writer.drain()
                writer.write(b"x")
                await writer.drain()
                reset = struct.pack("ii", 1, 0)  # close with RST: this is no half-close
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, reset
                )
                writer.transport.abort()
            finally:
                gone.set()

        site = await lab.site(pour)
        reader, writer = await lab.tunnel("open.test", site.port)
        assert await reader.read(1)
        if side == "guest":
            writer.transport.abort()
        else:
            with contextlib.suppress(ConnectionError):
                await reader.read()
        await gone.wait()
        await lab.served.acquire()
        assert lab.proxy.active == 0


async def _stalled(progress: list[int]) -> None:
    """Return when nothing has moved for many turns of the loop: all buffers are full."""
    seen, still = -1, 0
    while still < 2000:
        still = still + 1 if progress[0] == seen else 0
        seen = progress[0]
        await asyncio.sleep(0)


@pytest.mark.parametrize("way", ["CONNECT", "GET"])
async def test_a_large_download_to_a_slow_reader_stays_out_of_memory(
    open_lab: OpenLab, way: str
) -> None:
    total = 48 * MIB
    sent = [0]

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way == "GET":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent[0] < total:
            writer.write(PIECE)
            sent[0] += len(PIECE)
            await writer.drain()

    async with open_lab() as lab:
        site = await lab.site(pour)
        tracemalloc.start()
        try:
            reader, writer = await lab.connect()
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()
            place = f"open.test:{site.port}"
            target = place if way == "CONNECT" else f"http://{place}/"
            writer.write(f"{way} {target} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            await _stalled(sent)
            assert 0 < sent[0] < total
            assert tracemalloc.get_traced_memory()[1] < 6 * MIB
        finally:
            tracemalloc.stop()
        writer.transport.resume_reading()
        await reader.readuntil(b"\r\n\r\n")
        digest, left = hashlib.sha256(), total
        while left:
            data = await reader.read(MIB)
            digest.update(data)
            left -= len(data)
        assert digest.digest() == hashlib.sha256(PIECE * (total // len(PIECE))).digest()
        assert lab.proxy.traffic.to_guest >= total


@pytest.mark.parametrize("way", ["CONNECT", "PUT"])
async def test_a_large_upload_to_a_slow_server_stays_out_of_memory(
    open_lab: OpenLab, way: str
) -> None:
    total = 48 * MIB
    sent = [0]
    start = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way == "PUT":
            await reader.readuntil(b"\r\n\r\n")
        await start.wait()
        digest, left = hashlib.sha256(), total
        while left:
            data = await reader.read(MIB)
            digest.update(data)
            left -= len(data)
        body = digest.digest()
        if way == "PUT":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n")
        writer.write(body)

    async with open_lab() as lab:
        site = await lab.site(swallow)
        tracemalloc.start()
        try:
            if way == "CONNECT":
                reader, writer = await lab.tunnel("open.test", site.port)
            else:
                reader, writer = await lab.connect()
                head = f"PUT http://open.test:{site.port}/ HTTP/1.1\r\nHost: x\r\n"
                writer.write(f"{head}Content-Length: {total}\r\n\r\n".encode())

            async def pour() -> None:
                while sent[0] < total:
                    writer.write(PIECE)
                    sent[0] += len(PIECE)
                    await writer.drain()

            async with asyncio.TaskGroup() as group:
                group.create_task(pour())
                await _stalled(sent)
                assert 0 < sent[0] < total
                assert tracemalloc.get_traced_memory()[1] < 6 * MIB
                start.set()
        finally:
            tracemalloc.stop()
        if way == "PUT":
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        want = hashlib.sha256(PIECE * (total // len(PIECE))).digest()
        assert await reader.readexactly(32) == want


async def curl(lab: Lab, *arguments: str) -> tuple[int, bytes, bytes]:
    """Run the real client through the proxy, without its configuration or proxy variables."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-q", "--silent", "--show-error", "--max-time", "20"),
        *("--noproxy", "", "--proxy", lab.url, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
    )
    out, err = await process.communicate()
    return process.returncode or 0, out, err


async def test_curl_fetches_tunnels_uploads_and_is_refused(
    open_lab: OpenLab, tmp_path: Path
) -> None:
    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = 0
        if b"Expect: 100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"Transfer-Encoding: chunked" in head:
            while chunk := int(await reader.readline(), 16):
                size += len(await reader.readexactly(chunk + 2)) - 2
        elif found := re.search(rb"Content-Length: (\d+)", head):
            size = len(await reader.readexactly(int(found[1])))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ntook %d" % size)

    async with open_lab() as lab:
        site, secret = await lab.site(keep), await lab.forbidden()
        url = f"http://open.test:{site.port}/"
        assert await curl(lab, url, url) == (0, b"took 0took 0", b"")
        assert await curl(lab, "--proxytunnel", url) == (0, b"took 0", b"")

        upload = tmp_path / "upload"
        upload.write_bytes(PIECE * 48)
        assert await curl(lab, "--upload-file", str(upload), url) == (0, b"took 3145728", b"")
        chunked = ("--header", "Transfer-Encoding: chunked", "--upload-file", str(upload))
        assert await curl(lab, *chunked, url) == (0, b"took 3145728", b"")

        denied = f"http://closed.test:{secret.port}/"
        code, out, _ = await curl(lab, denied)
        assert (code, b"WAGGLE_EGRESS_ALLOW_CIDRS" in out) == (0, True)
        code, out, err = await curl(lab, "--proxytunnel", denied)
        assert (code, out) == (56, b"")
        assert b"403" in err
        assert secret.connections == 0


async def test_curl_follows_a_redirect_into_a_refusal(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        secret = await lab.forbidden()
        place = f"http://closed.test:{secret.port}/".encode()
        site = await lab.web(
            b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % place
        )
        arguments = ("--location", "--write-out", "\n%{http_code}")
        code, out, _ = await curl(lab, *arguments, f"http://open.test:{site.port}/")
        assert (code, out.splitlines()[-1]) == (0, b"403")
        assert (site.connections, secret.connections) == (1, 0)
