# SPDX-License-Identifier: Apache-2.0
"""Websockets through an exposed port: agreed to by the guest, opened to its own pages alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import anyio
import pytest
from tests.support.exposing import Conversation, Exposed, exposed, ok
from tests.support.owners import ANN, BOB, Tokens, guarded
from tests.support.server import Setup
from tests.support.waiting import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from waggle.domain.exposed_url import ExposedUrls
from waggle.web.exposed import ExposedLimits

pytestmark = pytest.mark.anyio
LARGE = "x" * 900_000


@contextlib.asynccontextmanager
async def echoing(setup: Setup | None = None, owner: str = "local") -> AsyncGenerator[Exposed]:
    """Run a server whose exposed port is a real echo of websockets."""

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    def choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return offered[0] if offered else None

    async with (
        serve(echo, "127.0.0.1", 0, select_subprotocol=choose) as server,
        exposed(ok, setup, owner=owner) as here,
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        here.rig.host.only.servers[8000] = port
        yield here


def opened(here: Exposed, path: str = "/", **more: object) -> connect:
    url = f"ws://{here.authority}{here.path}{path}"
    return connect(url, proxy=None, open_timeout=10, **more)  # pyright: ignore[reportArgumentType]


async def echoed(socket: ClientConnection, message: str | bytes = "hello") -> None:
    await socket.send(message)
    assert await socket.recv() == message


async def test_messages_of_all_sizes_pass_both_ways_until_a_close() -> None:
    async with echoing() as here:
        async with opened(here, subprotocols=["chat"]) as socket:
            assert socket.subprotocol == "chat"
            for message in ("", "hello", b"\0\1", LARGE):
                await echoed(socket, message)
            await socket.ping()
            await socket.close(4000, "enough")
            assert socket.close_code == 4000
        life = here.rig.services.environments.life(here.environment.id)
        assert life is not None
        await until(lambda: life.ports.visits == 0)


async def test_a_websocket_wakes_a_paused_environment_and_ends_with_a_pause() -> None:
    async with echoing() as here:
        environments = here.rig.services.environments
        await environments.pause(here.environment.id, owner="local", to_disk=False)
        async with opened(here) as socket:
            await echoed(socket)
            await environments.pause(here.environment.id, owner="local", to_disk=False)
            with pytest.raises(ConnectionClosed):
                await socket.recv()


async def test_a_guest_may_refuse_and_its_refusal_is_passed_on() -> None:
    async def refuse(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 418 Teapot\r\nContent-Length: 2\r\n\r\nno")

    async with exposed(refuse) as here:
        with pytest.raises(InvalidStatus) as refused:
            await opened(here)
        assert (refused.value.response.status_code, refused.value.response.body) == (418, b"no")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
    ],
)
async def test_a_guest_that_agrees_to_something_else_opens_no_tunnel(answer: bytes) -> None:
    async def trick(talk: Conversation) -> None:
        await talk.say(answer)
        await talk.reader.read()

    async with exposed(trick) as here:
        with pytest.raises(InvalidStatus) as refused:
            await opened(here)
        assert refused.value.response.status_code == 502


async def test_an_offer_of_another_protocol_is_an_ordinary_request() -> None:
    async with exposed(ok) as here:
        start = f"GET {here.path}/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\n"
        answer = await here.sent(start.encode() + b"Upgrade: h2c\r\n\r\n")
        assert answer.endswith(b"ok")
        assert "upgrade" not in here.program.last.headers


async def test_pages_of_other_origins_open_no_websocket() -> None:
    async with echoing(Setup(names=("agents.test",), origins=("https://agents.test",))) as here:
        for origin in ("http://evil.test", "null", f"http://{here.authority}0", "http://localhost"):
            with pytest.raises(InvalidStatus) as refused:
                await opened(here, origin=origin)
            assert refused.value.response.status_code == 403
        for origin in (f"http://{here.authority}", "https://agents.test"):
            async with opened(here, origin=origin) as socket:
                await echoed(socket)


async def test_a_token_opens_it_and_does_not_reach_the_guest() -> None:
    seen: list[str] = []

    async def note(talk: Conversation) -> None:
        seen.append(talk.head.decode())
        await ok(talk)

    async with exposed(note, guarded(), owner="ann") as here:
        for more in (
            {"additional_headers": {"Authorization": f"Bearer {ANN}"}},
            {"subprotocols": ["chat", f"waggle.bearer.{ANN}"]},
            {"path": f"/?a=1&waggle_link={here.token()}&b=2"},
        ):
            with pytest.raises(InvalidStatus) as refused:
                await opened(here, **more)  # pyright: ignore[reportArgumentType]
            assert refused.value.response.status_code == 200
        for more in ({}, {"additional_headers": {"Authorization": f"Bearer {BOB}"}}):
            with pytest.raises(InvalidStatus) as refused:
                await opened(here, **more)  # pyright: ignore[reportArgumentType]
            assert refused.value.response.status_code in (401, 404)
    whole = "".join(seen)
    assert len(seen) == 3
    assert ANN not in whole
    assert "waggle" not in whole.replace("waggle-", "")
    assert "sec-websocket-protocol: chat\r\n" in seen[1]
    assert seen[2].startswith("GET /?a=1&b=2 HTTP/1.1")


async def test_it_ends_when_its_token_is_not_valid_any_more() -> None:
    tokens = Tokens()
    setup = guarded(tokens)
    setup.exposed = ExposedLimits(check_seconds=0.05)
    async with (
        echoing(setup, owner="ann") as here,
        opened(here, additional_headers={"Authorization": f"Bearer {ANN}"}) as socket,
    ):
        await echoed(socket)
        del tokens.owners[ANN]
        with anyio.fail_after(5), pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_stopping_server_ends_it() -> None:
    async with echoing() as here, opened(here) as socket:
        await echoed(socket)
        here.rig.server.stop()
        with anyio.fail_after(5), pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_host_of_its_own_has_websockets_at_every_path() -> None:
    setup = Setup(urls=ExposedUrls(host="box.test"))
    async with echoing(setup) as here:
        port = int(here.authority.rpartition(":")[2])
        url, origin = f"ws://{here.host}/ws", f"http://{here.host}"
        async with connect(url, host="127.0.0.1", port=port, proxy=None) as socket:
            await echoed(socket)
        other = origin.replace("8000-", "3000-", 1)
        async with connect(url, host="127.0.0.1", port=port, proxy=None, origin=other) as socket:  # pyright: ignore[reportArgumentType]
            await echoed(socket)
        with pytest.raises(InvalidStatus):
            await connect(url, host="127.0.0.1", port=port, proxy=None, origin="http://box.test")  # pyright: ignore[reportArgumentType]


async def test_an_abandoned_websocket_is_freed() -> None:
    async with echoing() as here:
        reader, writer = await here.connected()
        writer.write(
            f"GET {here.path}/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.transport.abort()
        life = here.rig.services.environments.life(here.environment.id)
        assert life is not None
        await until(lambda: life.ports.visits == 0)
        await asyncio.sleep(0)
