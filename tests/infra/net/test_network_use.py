# SPDX-License-Identifier: Apache-2.0
"""What the proxy tells of its connections: decisions, bytes, and one end of each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from waggle.domain.network.decisions import Decision

if TYPE_CHECKING:
    from tests.infra.net.lab import OpenLab

pytestmark = pytest.mark.anyio


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_decisions_are_remembered(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        site = await lab.web(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        for _ in range(2):
            await lab.ask(b"GET http://10.0.0.9/ HTTP/1.1\r\nHost: x\r\n\r\n")
            await lab.ask(
                b"GET http://open.test:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                % site.port
            )
        use = lab.proxy.network_use()
        assert (use.connections, use.refused) == (2, 2)
        (denied,), (allowed,) = use.denied, use.allowed
        assert denied.decision == Decision("10.0.0.9", 80, "private", "it is a private address")
        assert (denied.count, denied.sent) == (2, 0)
        assert allowed.decision.place == f"open.test:{site.port}"
        assert allowed.decision.address == "127.0.0.1"
        assert (allowed.count, allowed.sent) == (2, sum(map(len, site.heads)))
        assert allowed.received == 2 * len(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def test_every_connection_has_one_end_with_its_bytes(open_lab: OpenLab) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(5)).upper())

    async with open_lab() as lab:
        site = await lab.site(echo)
        reader, writer = await lab.tunnel("open.test", site.port)
        writer.write(b"hello")
        assert await reader.read() == b"HELLO"
        writer.close()
        await lab.served.acquire()
        (ended,) = lab.ends
        assert (ended.decision, ended.sent, ended.received) == (lab.decisions[0], 5, 5)
        assert ended.seconds >= 0
        await lab.tunnel("open.test", (await lab.site(silent)).port)
        await lab.proxy.aclose()  # as when the environment is destroyed
        assert len(lab.ends) == 2
