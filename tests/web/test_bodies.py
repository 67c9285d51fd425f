# SPDX-License-Identifier: Apache-2.0
"""Request bodies within limits of size, time and memory; the held bytes are always released."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message, Receive
from tests.support.server import Setup, raw, request, serving

from waggle.web.bodies import Bodies, BodyLimits, BodyRefusedError, ClientGoneError, replay

pytestmark = pytest.mark.anyio
GONE: Message = {"type": "http.disconnect"}


def chunks(*parts: bytes, end: bool = True) -> Receive:
    """Return a client that sends `parts` and then hangs up."""
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": not end or number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]

    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return messages.pop(0) if messages else GONE

    return receive


A, B, C = "a", "b", "c"


def bodies(seconds: float = math.inf, rate: int = 1) -> Bodies:
    """Return limits of 10 bytes per body, 12 per owner, 20 in all; up to 3 are not counted."""
    small = BodyLimits(one=10, small=3, owner=12, together=20, patience=0.01)
    return Bodies(replace(small, grace=seconds, rate=rate))


async def test_a_body_in_parts_is_read_whole_and_released() -> None:
    all_bodies = bodies()
    async with all_bodies.read("7", chunks(b"abc", b"", b"defg"), A) as body:
        assert body.data == b"abcdefg"
        assert all_bodies.held == 7
    assert all_bodies.held == 0


@pytest.mark.parametrize("length", ["11", "99999999999999999999", ""])
async def test_a_large_body_is_refused(length: str) -> None:
    all_bodies = bodies()
    with pytest.raises(BodyRefusedError) as raised:
        async with all_bodies.read(length, chunks(b"x" * 6, b"x" * 5), A):
            pass
    assert raised.value.status == 413
    assert all_bodies.held == 0


async def test_the_declared_length_is_refused_before_anything_is_read() -> None:
    async def receive() -> Message:
        raise AssertionError("read")

    with pytest.raises(BodyRefusedError):
        async with bodies().read("11", receive, A):
            pass


async def refused(all_bodies: Bodies, owner: str, length: str = "10") -> BodyRefusedError:
    with pytest.raises(BodyRefusedError) as raised:
        async with all_bodies.read(length, chunks(b"x" * 5, b"x" * 5), owner):
            pass
    return raised.value


async def test_an_owner_has_a_share_and_small_bodies_do_not_count() -> None:
    all_bodies = bodies()
    async with all_bodies.read("10", chunks(b"x" * 10), A):
        assert (await refused(all_bodies, A)).status == 503
        assert not all_bodies.refusing
        async with all_bodies.read("10", chunks(b"x" * 10), B):
            assert all_bodies.held == 20
            async with all_bodies.read("3", chunks(b"xxx"), A) as small:
                assert small.data == b"xxx"
    assert all_bodies.held == 0


async def test_all_bodies_together_have_a_limit_that_is_reported() -> None:
    all_bodies = bodies()
    async with (
        all_bodies.read("10", chunks(b"x" * 10), A),
        all_bodies.read("10", chunks(b"x" * 10), B),
    ):
        assert (await refused(all_bodies, C)).status == 503
        assert all_bodies.refusing
        async with all_bodies.read("3", chunks(b"xxx"), C):
            pass
    async with all_bodies.read("10", chunks(b"x" * 10), C):
        pass
    assert all_bodies.held == 0


@pytest.mark.parametrize("length", ["10", ""])
async def test_a_body_waits_for_other_bodies_of_its_owner(length: str) -> None:
    all_bodies = Bodies(BodyLimits(one=10, small=3, owner=12, together=20))
    begun = anyio.Event()
    read: list[bytes] = []

    async def second() -> None:
        begun.set()
        async with all_bodies.read(length, chunks(b"y" * 6, b"y" * 4), A) as body:
            read.append(bytes(body.data))

    async with anyio.create_task_group() as group, all_bodies.read("10", chunks(b"x" * 10), A):
        group.start_soon(second)
        await begun.wait()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert read == []
    assert read == [b"y" * 10]
    assert all_bodies.held == 0


@pytest.mark.parametrize("sent, length", [(b"", "10"), (b"", ""), (b"x" * 4, ""), (b"x", "3")])
async def test_a_slow_body_is_refused(sent: bytes, length: str) -> None:
    left = [sent] if sent else []

    async def receive() -> Message:
        if not left:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": left.pop(), "more_body": True}

    all_bodies = bodies(seconds=0.01, rate=1_000_000)
    with pytest.raises(BodyRefusedError) as raised:
        async with all_bodies.read(length, receive, A):
            pass
    assert raised.value.status == 408
    assert all_bodies.held == 0


async def test_a_body_that_keeps_coming_has_more_time() -> None:
    """The limit is 0.05 s plus one second per byte received; sending takes longer than 0.05 s."""
    parts = [b"x"] * 9

    async def receive() -> Message:
        if not parts:
            with anyio.move_on_after(0.06):
                await anyio.sleep_forever()
            return {"type": "http.request", "body": b"y", "more_body": False}
        return {"type": "http.request", "body": parts.pop(), "more_body": True}

    async with bodies(seconds=0.05).read("10", receive, A) as body:
        assert body.data == b"xxxxxxxxxy"


async def test_the_time_limit_does_not_cover_the_answer() -> None:
    with pytest.raises(TimeoutError):
        async with bodies(seconds=0.01).read("", chunks(b"x"), A):
            raise TimeoutError


async def test_the_bytes_of_a_client_that_hangs_up_are_released() -> None:
    all_bodies = bodies()
    with pytest.raises(ClientGoneError):
        async with all_bodies.read("10", chunks(b"abcd", end=False), A):
            pass
    assert all_bodies.held == 0


async def test_deep_nesting_is_refused_while_it_arrives() -> None:
    all_bodies = Bodies(BodyLimits())
    parts = [b"[" * 50, b"[" * 50, b"never read"]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": True}

    with pytest.raises(BodyRefusedError, match="more than 64 levels") as raised:
        async with all_bodies.read("1000", receive, A):
            pass
    assert raised.value.status == 400
    assert parts == [b"never read"]


async def test_a_replayed_body_is_followed_by_the_real_messages() -> None:
    receive = replay(b"abc", chunks())
    assert await receive() == {"type": "http.request", "body": b"abc", "more_body": False}
    assert await receive() == GONE


async def test_the_size_and_time_limits_apply_over_http() -> None:
    setup = Setup(bodies=BodyLimits(one=2_000, grace=0.2, rate=1_000_000))
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


async def test_a_slow_body_over_http_is_cut_while_it_arrives() -> None:
    setup = Setup(bodies=BodyLimits(grace=0.2, rate=16 * 1024))
    async with serving(setup) as rig:
        port = int(rig.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000\r\n\r\n"
        )
        answered, sent = b"", 0
        with anyio.fail_after(30):
            while not answered:
                writer.write(b" ")
                sent += 1
                with anyio.move_on_after(0.01):
                    answered = await reader.read(12)
        assert answered == b"HTTP/1.1 408"
        assert sent > 2, "something came all the time"
        writer.close()
