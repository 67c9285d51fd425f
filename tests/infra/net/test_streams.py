# SPDX-License-Identifier: Apache-2.0
"""The proxy behind a real reverse forward of asyncssh, as it runs for a guest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import asyncssh
import pytest

if TYPE_CHECKING:
    from tests.infra.net.lab import Handler, Lab, OpenLab

pytestmark = pytest.mark.anyio
WINDOW = 128 * 1024


class Guest(asyncssh.SSHServer):
    """An SSH server that lets its client forward ports back and asks for no password."""

    def begin_auth(self, username: str) -> bool:
        return False

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return True


@contextlib.asynccontextmanager
async def forwarded(lab: Lab) -> AsyncGenerator[tuple[asyncssh.SSHClientConnection, int]]:
    """Yield the lab's proxy at the end of a reverse forward, with its port as the guest sees it."""

    def accept(host: str, port: int) -> Handler:
        return lab.proxy.serve

    # asyncssh leaves **kwargs untyped.
    key = asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType]
    guest = await asyncssh.listen("127.0.0.1", 0, server_factory=Guest, server_host_keys=[key])
    try:
        connection = await asyncssh.connect(
            "127.0.0.1",
            guest.get_port(),
            known_hosts=None,
            client_keys=None,
            username="sandbox",
            config=None,
        )
        async with connection:
            forward = await connection.start_server(
                accept, "127.0.0.1", 0, encoding=None, window=WINDOW
            )
            yield connection, forward.get_port()
    finally:
        guest.close()
        await guest.wait_closed()


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())


async def tunnel(port: int, to: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT open.test:{to} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    return reader, writer


async def test_a_tunnel_carries_a_megabyte_both_ways_and_half_closes(open_lab: OpenLab) -> None:
    async with open_lab() as lab, forwarded(lab) as (_, port):
        site = await lab.site(shout)
        reader, writer = await tunnel(port, site.port)
        writer.write(b"\xffa" * 500_000)
        writer.write_eof()
        assert await reader.read() == b"\xffA" * 500_000
        writer.close()
        await writer.wait_closed()


async def test_requests_and_refusals_work_through_the_forward(open_lab: OpenLab) -> None:
    async with open_lab() as lab, forwarded(lab) as (_, port):
        site = await lab.web(b"HTTP/1.1 200 OK\r\n\r\nhello")
        secret = await lab.forbidden()
        for host, to, expected in (("open", site.port, b"200"), ("closed", secret.port, b"403")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET http://{host}.test:{to}/ HTTP/1.0\r\n\r\n".encode())
            assert (await reader.read()).split()[1] == expected
            writer.close()
        assert secret.connections == 0


async def test_a_lost_ssh_connection_ends_the_tunnels(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        gone = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            gone.set()

        site = await lab.site(wait)
        async with forwarded(lab) as (connection, port):
            _, writer = await tunnel(port, site.port)
            assert lab.proxy.active == 1
            connection.abort()
            await gone.wait()
            writer.close()


async def test_closing_the_proxy_closes_the_channels(open_lab: OpenLab) -> None:
    async with open_lab() as lab, forwarded(lab) as (_, port):

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

        site = await lab.site(pour)
        reader, writer = await tunnel(port, site.port)
        await reader.readexactly(1_000_000)
        await lab.proxy.aclose()
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()
