# SPDX-License-Identifier: Apache-2.0
"""Request bodies within limits of size, time and memory; what is read is always given back."""

from __future__ import annotations

import asyncio
import math

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message, Receive
from tests.support.server import Setup, raw, request, serving

from waggle.web.bodies import Bodies, BodyLimits, BodyRefusedError, ClientGoneError, replay

pytestmark = pytest.mark.anyio
GONE: Message = {"type": "http.disconnect"}


def chunks(*parts: bytes, end: bool = True) -> Receive:
    """A client that sends `parts`, and then hangs up."""
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": not end or number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]

    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return messages.pop(0) if messages else GONE

    return receive


def bodies(one: int = 10, together: int = 15, seconds: float = math.inf) -> Bodies:
    return Bodies(BodyLimits(one, together, seconds))


async def test_a_body_in_parts_is_read_whole_and_released() -> None:
    all_bodies = bodies()
    async with all_bodies.read("", chunks(b"abc", b"", b"defg")) as body:
        assert body == b"abcdefg"
        assert all_bodies.held == 7
    assert all_bodies.held == 0


@pytest.mark.parametrize("length", ["11", "99999999999999999999", ""])
async def test_a_large_body_is_refused(length: str) -> None:
    all_bodies = bodies()
    with pytest.raises(BodyRefusedError) as raised:
        async with all_bodies.read(length, chunks(b"x" * 6, b"x" * 5)):
            pass
    assert raised.value.status == 413
    assert all_bodies.held == 0


async def test_the_declared_length_is_refused_before_anything_is_read() -> None:
    async def receive() -> Message:
        raise AssertionError("read")

    with pytest.raises(BodyRefusedError):
        async with bodies().read("11", receive):
            pass


async def test_all_bodies_together_have_a_limit() -> None:
    all_bodies = bodies()
    async with all_bodies.read("", chunks(b"x" * 10)):
        with pytest.raises(BodyRefusedError) as raised:
            async with all_bodies.read("", chunks(b"x" * 4, b"x" * 2)):
                pass
        assert raised.value.status == 503
        assert all_bodies.held == 10
    async with all_bodies.read("", chunks(b"x" * 10)):
        pass
    assert all_bodies.held == 0


async def test_a_slow_body_is_refused() -> None:
    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(BodyRefusedError) as raised:
        async with bodies(seconds=0.01).read("", receive):
            pass
    assert raised.value.status == 408


async def test_the_time_is_for_the_body_not_for_the_answer() -> None:
    with pytest.raises(TimeoutError):
        async with bodies(seconds=0.01).read("", chunks(b"x")):
            raise TimeoutError


async def test_a_client_that_hangs_up_is_forgotten() -> None:
    all_bodies = bodies()
    with pytest.raises(ClientGoneError):
        async with all_bodies.read("", chunks(b"abc", end=False)):
            pass
    assert all_bodies.held == 0


async def test_a_replayed_body_is_followed_by_what_really_comes() -> None:
    receive = replay(b"abc", chunks())
    assert await receive() == {"type": "http.request", "body": b"abc", "more_body": False}
    assert await receive() == GONE


async def test_limits_over_http() -> None:
    setup = Setup(bodies=BodyLimits(one=2_000, together=3_000, seconds=0.2))
    async with serving(setup) as rig, raw(rig) as http:
        large = request("tools/list", {"_meta": {"x": "y" * 2_000}})
        answer = await http.post("/mcp", json=large)
        assert answer.status_code == 413
        assert "2000" in answer.json()["error"]["message"]
        port = int(rig.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        with anyio.fail_after(5):
            answered = await reader.read()
        assert answered.startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        assert (await http.post("/mcp", json=request("tools/list"))).status_code == 200
