# SPDX-License-Identifier: Apache-2.0
"""Guests that break HTTP, and clients that never send or read: bounded, and told apart."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from random import Random

import anyio
import httpx2
import pytest
from tests.support.exposing import OK, Conversation, Exposed, exposed, ok
from tests.support.server import Setup, raw
from tests.support.waiting import until

from waggle.web.exposed import ExposedLimits
from waggle.web.exposed.passing import PassingLimits

pytestmark = pytest.mark.anyio
FAST = PassingLimits(answer=0.3, idle=0.3, stall=0.3, flush=0.3, linger=0.3)


def limited(passing: PassingLimits = FAST, **more: int) -> Setup:
    return Setup(exposed=replace(ExposedLimits(passing=passing), **more))


def visits(here: Exposed) -> int:
    life = here.rig.services.environments.life(here.environment.id)
    assert life is not None
    return life.ports.visits


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + OK,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    ],
)
async def test_an_answer_that_is_not_http_is_502(answer: bytes) -> None:
    async def given(talk: Conversation) -> None:
        await talk.say(answer)

    async with exposed(given) as here, raw(here.rig) as http:
        got = await http.get(f"{here.path}/")
        assert (got.status_code, got.text) == (
            502,
            "waggle: The program in the environment gave no valid answer.\n",
        )
        assert visits(here) == 0
        assert (await http.get("/healthz")).status_code == 200


VALID = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b; Path=/\r\n\r\nhello",
    b"HTTP/1.1 302 Found\r\nLocation: //localhost:8000/x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: public\r\n\r\n"
    b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\nConnection: X, close\r\n\r\nno",
)


async def test_nearly_valid_answers_are_passed_on_or_refused_and_break_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    random = Random(16)
    statuses = set[int]()

    async def given(talk: Conversation) -> None:
        answer = bytearray(random.choice(VALID))
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(answer))
            what = random.choice((b"", b"\0", b"\r\n", b":", b" ", b"\xff", b"9" * 30, answer[:at]))
            answer[at : at + random.randint(0, 3)] = what
        await talk.say(bytes(answer))

    async with exposed(given) as here, raw(here.rig) as http:
        for _ in range(150):
            with contextlib.suppress(httpx2.TransportError):
                statuses.add((await http.get(f"{here.path}/")).status_code)
        assert (await http.get("/healthz")).status_code == 200
        await until(lambda: visits(here) == 0)
    assert {200, 502} <= statuses
    assert 500 not in statuses
    assert "Exception in ASGI application" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n" + b"f" * 50_000,
    ],
)
async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def given(talk: Conversation) -> None:
        await talk.say(answer)

    async with exposed(given) as here, raw(here.rig) as http:
        with pytest.raises(httpx2.TransportError):
            await http.get(f"{here.path}/")
        await until(lambda: visits(here) == 0)
    assert not caplog.records, "a guest could fill the log"


async def test_what_follows_an_answer_is_no_other_answer() -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def given(talk: Conversation) -> None:
        await talk.say(OK + smuggled)

    async with exposed(given) as here:
        ask = f"GET {here.path}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answers = await here.sent(ask, last)
        assert b"evil" not in answers
        assert answers.count(b"HTTP/1.1 ") == 2
        assert answers.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length : 2\r\n",
        b"X: a\r\n b\r\n",
        b"Host: other\r\n",
    ],
)
async def test_an_ambiguous_request_never_reaches_the_guest(head: bytes) -> None:
    async with exposed(ok) as here:
        start = f"POST {here.path}/ HTTP/1.1\r\nHost: localhost\r\n".encode()
        answer = await here.sent(start + head + b"\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert here.program.asked == []


async def test_a_request_target_that_is_not_ascii_is_refused() -> None:
    async with exposed(ok) as here:
        ask = b"GET " + here.path.encode() + b"/\xff HTTP/1.1\r\nHost: localhost\r\n"
        answer = await here.sent(ask + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert here.program.asked == []


async def test_a_guest_that_never_answers_is_504() -> None:
    async def silent(talk: Conversation) -> None:
        await talk.reader.read()

    async with exposed(silent, limited()) as here, raw(here.rig) as http:
        got = await http.get(f"{here.path}/")
        assert got.status_code == 504
        assert visits(here) == 0


async def test_a_guest_that_falls_silent_midway_ends_the_connection() -> None:
    async def stops(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await talk.reader.read()

    async with exposed(stops, limited()) as here, raw(here.rig) as http:
        with pytest.raises(httpx2.TransportError):
            await http.get(f"{here.path}/")
        await until(lambda: visits(here) == 0)


async def test_a_client_that_does_not_finish_its_body_is_ended() -> None:
    async def waits(talk: Conversation) -> None:
        await talk.reader.readexactly(9)

    async with exposed(waits, limited()) as here:
        start = f"POST {here.path}/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        answer = await here.sent(start.encode())
        assert answer.startswith(b"HTTP/1.1 504 ")
        await until(lambda: visits(here) == 0)


async def test_a_client_that_never_reads_holds_little_and_not_for_long() -> None:
    sent = 0

    async def flood(talk: Conversation) -> None:
        nonlocal sent
        await talk.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await talk.say(bytes(1 << 16))
            sent += 1 << 16

    async with exposed(flood, limited()) as here:
        _reader, writer = await here.connected()  # which takes a little and then stops
        writer.write(f"GET {here.path}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await until(lambda: visits(here) == 1)
        await until(lambda: visits(here) == 0)
        assert sent < 64 << 20
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_flood_of_tiny_chunks_leaves_the_loop_to_others() -> None:
    async def tiny(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await talk.say(b"1\r\nx\r\n" * 4_000)

    async with exposed(tiny) as here, raw(here.rig) as http:
        async with http.stream("GET", f"{here.path}/") as answer:
            reading = asyncio.create_task(answer.aread())
            with anyio.fail_after(10):
                for _ in range(10):
                    assert (await http.get("/healthz")).status_code == 200
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        await until(lambda: visits(here) == 0)


async def test_requests_at_once_are_bounded() -> None:
    go = asyncio.Event()

    async def later(talk: Conversation) -> None:
        await go.wait()
        await talk.say(OK)

    patient = PassingLimits()
    async with exposed(later, limited(patient, owner=2)) as here, raw(here.rig) as http:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(http.get, f"{here.path}/")
            await until(lambda: visits(here) == 2)
            refused = await http.get(f"{here.path}/")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            go.set()
        with anyio.fail_after(5):
            while (await http.get(f"{here.path}/")).status_code != 200:
                pass  # the server counts a request a little longer than its client


async def test_a_closed_port_ends_what_is_under_way() -> None:
    async def endless(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\n\r\nx")
        await talk.reader.read()

    async with exposed(endless) as here, raw(here.rig) as http:
        async with http.stream("GET", f"{here.path}/") as answer:
            parts = answer.aiter_raw()
            assert await anext(parts) == b"x"
            await here.rig.services.ports.unexpose(here.environment.id, 8000, owner="local")
            with pytest.raises(httpx2.TransportError):
                await anext(parts)
        assert visits(here) == 0
