# SPDX-License-Identifier: Apache-2.0
"""A request to an exposed port and its answer: bodies both ways, streams, heads, and wakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest
from tests.support.exposing import OK, PORT, Conversation, exposed, ok
from tests.support.server import raw

from waggle.domain.environment import State
from waggle.service.environments.restarts import Restarts

pytestmark = pytest.mark.anyio
PIECE = bytes(range(256)) * 256
BODY = PIECE * 256
"""16 MiB."""


async def test_a_get_reaches_the_guest_as_its_own_and_the_answer_comes_back() -> None:
    async def page(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 203 Fine\r\nContent-Type: text/html\r\nX-A: b\r\n\r\n<p>")

    async with exposed(page) as here, raw(here.rig) as http:
        answer = await http.get(f"{here.path}/a%20b/..%2fc?x=1&y=%26")
        assert (answer.status_code, answer.text) == (203, "<p>")
        assert answer.headers["x-a"] == "b"
        asked = here.program.last
        assert asked.line == b"GET /a%20b/..%2fc?x=1&y=%26 HTTP/1.1"
        assert asked.headers["host"] == f"localhost:{PORT}"
        assert asked.headers["connection"] == "close"
        assert asked.headers["x-forwarded-host"] == here.authority
        assert asked.headers["x-forwarded-prefix"] == here.path
        assert asked.headers["x-forwarded-proto"] == "http"
        assert asked.headers["x-forwarded-for"] == "127.0.0.1"


async def test_the_path_without_its_slash_leads_to_that_with_it() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        answer = await http.get(f"{here.path}?x=1")
        assert answer.status_code == 308
        assert answer.headers["location"] == f"{here.path}/?x=1"


async def test_bodies_pass_both_ways_whole() -> None:
    async def echo(talk: Conversation) -> None:
        body = await talk.reader.readexactly(int(talk.headers["content-length"]))
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)

    async with exposed(echo) as here, raw(here.rig) as http:
        answer = await http.post(f"{here.path}/", content=BODY)
        assert answer.content == BODY
        assert "transfer-encoding" not in here.program.last.headers


async def test_chunked_bodies_pass_both_ways_and_trailers_do_not() -> None:
    async def echo(talk: Conversation) -> None:
        sent = await talk.reader.readuntil(b"0\r\n\r\n")
        text = b"".join(sent.split(b"\r\n")[1::2])
        await talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n")
        await talk.say(b"%x;a=b\r\n%b\r\n" % (len(text), text), b"0\r\nX-T: 1\r\n\r\n")

    async def parts() -> AsyncGenerator[bytes]:
        for part in (b"one ", b"two ", b"three"):
            yield part

    async with exposed(echo) as here, raw(here.rig) as http:
        answer = await http.post(f"{here.path}/", content=parts())
        assert answer.text == "one two three"
        assert "x-t" not in answer.headers
        assert here.program.last.headers["transfer-encoding"] == "chunked"


async def test_events_arrive_as_they_are_sent() -> None:
    go = asyncio.Event()

    async def events(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go.wait()
        await talk.say(b"data: 2\n\n")

    async with (
        exposed(events) as here,
        raw(here.rig) as http,
        http.stream("GET", f"{here.path}/") as answer,
    ):
        assert answer.headers["x-accel-buffering"] == "no"
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 1\n\n"
        go.set()
        assert await anext(chunks) == b"data: 2\n\n"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_the_guest_notices_that_a_client_has_left() -> None:
    left = asyncio.Event()

    async def endless(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\n\r\nx")
        await talk.reader.read()
        left.set()

    async with exposed(endless) as here, raw(here.rig) as http:
        async with http.stream("GET", f"{here.path}/") as answer:
            assert answer.status_code == 200
        with anyio.fail_after(5):
            await left.wait()


@pytest.mark.parametrize(
    "method, answer, status",
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204),
        ("DELETE", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        ("OPTIONS", b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + OK, 200),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nuntil it hangs up", 200),
        ("PROPFIND", OK, 200),
    ],
)
async def test_answers_of_all_kinds_are_passed_on(method: str, answer: bytes, status: int) -> None:
    async def given(talk: Conversation) -> None:
        await talk.say(answer)

    async with exposed(given) as here, raw(here.rig) as http:
        got = await http.request(method, f"{here.path}/")
        assert got.status_code == status
        if method == "HEAD":
            assert got.headers["content-length"] == "12"
        again = await http.get("/healthz")  # on the same connection
        assert again.json() == {"status": "ok"}


async def test_an_early_answer_ends_the_upload() -> None:
    async def refuse(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")

    async with exposed(refuse) as here, raw(here.rig) as http:
        answer = await http.post(f"{here.path}/", content=BODY)
        assert (answer.status_code, answer.text) == (413, "no")


async def test_a_request_wakes_a_paused_environment() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        environments = here.rig.services.environments
        for to_disk in (False, True):
            await environments.pause(here.environment.id, owner="local", to_disk=to_disk)
            answer = await http.get(f"{here.path}/")
            assert answer.text == "ok"
            now = environments.get(here.environment.id, owner="local")
            assert now.state is State.RUNNING


async def test_only_exposed_ports_of_environments_that_exist_answer() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        here.rig.host.only.servers[9000] = here.program.port
        closed = await http.get(f"/e/{here.environment.id}/9000/")
        assert closed.status_code == 404
        assert closed.text == (
            "waggle: Port 9000 of this environment is not exposed. Expose it with expose_port.\n"
        )
        for path in (
            f"/e/{here.environment.name}/{PORT}/",
            f"/e/{here.environment.id}/0{PORT}/",
            f"/e/{here.environment.id}/99999/",
            f"/e/{here.environment.id.replace('0', 'f')}/{PORT}/",
            f"/%65/{here.environment.id}/{PORT}/",
            "/e/",
        ):
            assert (await http.get(path)).status_code == 404, path
        assert here.program.asked == []
        await here.rig.services.ports.unexpose(here.environment.id, PORT, owner="local")
        assert (await http.get(f"{here.path}/")).status_code == 404


async def test_a_port_on_which_nothing_listens_is_said() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        here.rig.host.only.servers.clear()
        answer = await http.get(f"{here.path}/")
        assert answer.status_code == 502
        assert "Nothing listens on port 8000" in answer.text


async def test_a_port_is_refused_at_once_during_a_restart_and_answers_after_it() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        host, environments = here.rig.host, here.rig.services.environments
        assert (await http.get(f"{here.path}/")).text == "ok"
        host.hold, host.prepare = anyio.Event(), lambda _guest: None
        host.creating = anyio.Event()
        restarts = Restarts(environments)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: restarts.restart(here.environment.id, owner="local"))
            await host.creating.wait()
            answer = await http.get(f"{here.path}/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.text == (
                "waggle: The environment is being restarted. Try again in some seconds.\n"
            )
            host.hold.set()
        silent = await http.get(f"{here.path}/")
        assert (silent.status_code, "Nothing listens on port 8000" in silent.text) == (502, True)
        host.only.servers[PORT] = here.program.port
        assert (await http.get(f"{here.path}/")).text == "ok"
