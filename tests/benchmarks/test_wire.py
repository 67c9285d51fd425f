# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' bare client, with the SDK's smallest server as a peer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from benchmarks.server import free_port, stopped
from benchmarks.wire import Answer, Wire, initialize, tool_call, wire

ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
async def test_both_revisions_are_spoken() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.noop", str(port), "h11", cwd=ROOT
    )
    try:
        async with wire(await _open(url)) as connection:
            opened = await connection.ask(initialize(url))
            session = opened.headers["mcp-session-id"]
            for request in (tool_call(url, "noop"), tool_call(url, "noop", session=session)):
                answer = await connection.ask(request)
                assert answer.status == 200
                assert answer.message()["result"]["isError"] is False
    finally:
        await stopped(process)


async def _open(url: str) -> str:
    async with asyncio.timeout(60):
        while True:
            try:
                async with wire(url):
                    return url
            except OSError:
                await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_a_chunked_answer_is_read_to_its_end() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'13\r\nevent: message\r\ndat\r\nb\r\na: {"id":1}\r\n0\r\n\r\n'
    )

    class Sink:
        def write(self, data: bytes) -> None:
            self.data = data

    answer = await Wire(reader, Sink()).ask(b"x")  # pyright: ignore[reportArgumentType]  # writes only
    assert isinstance(answer, Answer)
    assert answer.message() == {"id": 1}
