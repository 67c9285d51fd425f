# SPDX-License-Identifier: Apache-2.0
"""Who may open a terminal: tokens, origins and hosts, other owners, and how many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import anyio
import pytest
from structlog.testing import capture_logs
from tests.support.fakes import FakeHost
from tests.support.owners import ANN, BOB, SCRAPER, Tokens, guarded
from tests.support.server import Rig, Setup, raw, serving
from tests.support.terminal import FakeShell, attached, environment, url
from tests.support.waiting import until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from waggle.service.sharing import RateLimiter
from waggle.web.terminal import TerminalLimits

pytestmark = pytest.mark.anyio

OFFER = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def owned(**changes: object) -> Setup:
    setup = guarded()
    setup.host = FakeHost(prepare=FakeShell().prepare)
    for name, value in changes.items():
        setattr(setup, name, value)
    return setup


async def status(
    rig: Rig, place: str, headers: Mapping[str, str], *, query: str = "", method: str = "GET"
) -> tuple[int, str]:
    """Ask for a terminal, and return the status and the text of the refusal."""
    async with raw(rig) as http:
        answer = await http.request(
            method, f"/environments/{place}/terminal{query}", headers=headers
        )
    assert answer.headers.get("connection") != "keep-alive"
    return answer.status_code, answer.text


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("token", ["", "wgl_nope", ANN[:-1], f"{ANN} {ANN}"])
async def test_no_terminal_opens_without_a_valid_token(token: str) -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        with capture_logs() as logs:
            code, _ = await status(rig, made, OFFER | (bearer(token) if token else {}))
        assert code == 401
        assert token == "" or token not in str(logs)
        assert rig.host.only.kept == {}


async def test_a_token_in_the_query_is_none() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        for query in (f"?token={ANN}", f"?access_token={ANN}"):
            assert (await status(rig, made, OFFER, query=query))[0] == 401


async def test_a_token_may_be_a_subprotocol_which_is_never_repeated() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        offered = [f"waggle.bearer.{ANN}", "waggle.terminal"]
        async with attached(rig, made, subprotocols=offered) as screen:
            assert screen.socket.subprotocol == "waggle.terminal"
            assert screen.socket.response is not None
            assert ANN not in str(screen.socket.response.headers)
            await screen.shows("$ ")


@pytest.mark.parametrize(
    "offered, expected",
    [
        ("waggle.bearer.wgl_nope, waggle.terminal", 401),
        (f"waggle.bearer.{ANN}, waggle.bearer.{ANN}, waggle.terminal", 401),
        (f"waggle.bearer.{ANN}", 400),
        (f"WAGGLE.BEARER.{ANN}, waggle.terminal", 401),
        (f"waggle.bearer.{SCRAPER}, waggle.terminal", 403),
    ],
)
async def test_other_subprotocols_open_nothing(offered: str, expected: int) -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        code, _ = await status(rig, made, {**OFFER, "Sec-WebSocket-Protocol": offered})
        assert code == expected


async def test_a_subprotocol_is_no_token_of_other_requests() -> None:
    async with serving(owned()) as rig, raw(rig) as http:
        headers = {**OFFER, "Sec-WebSocket-Protocol": f"waggle.bearer.{ANN}"}
        assert (await http.get("/mcp", headers=headers)).status_code == 401


async def test_the_terminals_of_others_do_not_exist() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        async with attached(rig, made, token=ANN) as screen:
            await screen.shows("$ ")
            for query in ("", "?job=1", "?job=1&offset=0"):
                code, text = await status(rig, made, OFFER | bearer(BOB), query=query)
                assert (code, "There is no environment" in text) == (404, True)


async def test_a_token_that_is_withdrawn_ends_its_terminals() -> None:
    tokens = Tokens()
    setup = guarded(tokens)
    setup.host = FakeHost(prepare=FakeShell().prepare)
    setup.terminals = TerminalLimits(check_seconds=0.05)
    async with serving(setup) as rig:
        made = await environment(rig, ANN)
        async with attached(rig, made, token=ANN) as screen:
            await screen.shows("$ ")
            del tokens.owners[ANN]
            assert await screen.closed() == 4003
        tokens.owners[ANN] = "ann"
        async with attached(rig, made, token=ANN, job=1, offset=0) as again:
            await again.shows("$ ")  # the terminal itself goes on


@pytest.mark.parametrize(
    "origin, allowed",
    [
        ("https://page.example", True),
        ("https://other.example", False),
        ("http://localhost:40001", False),  # may be a page of a guest
        ("http://127.0.0.1:1", False),
        ("null", False),
        ("https://page.example.evil", False),
        ("file://", False),
    ],
)
async def test_only_pages_of_the_operators_origins_open_terminals(
    origin: str, allowed: bool
) -> None:
    setup = Setup(host=FakeHost(prepare=FakeShell().prepare), names=("page.example",))
    setup.origins = ("https://page.example",)
    async with serving(setup) as rig:
        made = await environment(rig)
        if allowed:
            async with attached(rig, made, origin=origin) as screen:
                await screen.shows("$ ")
            return
        assert (await status(rig, made, {**OFFER, "Origin": origin}))[0] == 403
        assert rig.host.only.kept == {}


async def test_a_page_of_the_server_itself_may() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        async with attached(rig, made, token=ANN, origin=rig.url) as screen:
            await screen.shows("$ ")


async def test_another_host_is_refused() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        headers = OFFER | bearer(ANN) | {"Host": "evil.example"}
        assert (await status(rig, made, headers))[0] == 421


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": "close"}, 426),
        ({"Sec-WebSocket-Version": "8"}, 400),
        ({"Sec-WebSocket-Version": ""}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "!" * 24}, 400),
    ],
)
async def test_a_request_that_offers_no_websocket_is_refused(
    changes: Mapping[str, str], expected: int
) -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        assert (await status(rig, made, {**OFFER, **bearer(ANN), **changes}))[0] == expected
        assert (await status(rig, made, OFFER | bearer(ANN), method="POST"))[0] == 405
        assert rig.host.only.kept == {}


@pytest.mark.parametrize(
    "place, query, expected",
    [
        ("nowhere", "", 404),
        ("{id}", "?job=9", 404),
        ("{id}", "?rows=0", 400),
        ("{id}", "?job=1&offset=x", 400),
        ("%00", "", 404),
        ("x" * 500, "", 400),
    ],
)
async def test_a_terminal_that_cannot_be_is_refused(place: str, query: str, expected: int) -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        place = place.format(id=made)
        code, text = await status(rig, place, OFFER | bearer(ANN), query=query)
        assert code in (expected, 400), text
        assert '"error"' in text


async def test_an_environment_has_four_terminals_at_most() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        codes: list[int] = []
        async with anyio.create_task_group() as group:

            async def try_one() -> None:
                try:
                    async with connect(
                        url(rig, made), additional_headers=bearer(ANN), proxy=None
                    ) as socket:
                        codes.append(101)
                        await socket.close()
                except InvalidStatus as error:
                    codes.append(error.response.status_code)

            for _ in range(7):
                group.start_soon(try_one)
        assert sorted(codes) == [101] * 4 + [409] * 3
        _, text = await status(rig, made, OFFER | bearer(ANN))
        assert "Attach to one of the jobs 1, 2, 3, 4" in text
        job = await rig.services.jobs.get(made, 2, owner="ann")
        await rig.services.jobs.kill(job, owner="ann")
        async with attached(rig, made, token=ANN) as screen:
            await screen.shows("$ ")


async def test_connections_of_one_owner_and_of_all_are_limited() -> None:
    limits = TerminalLimits(connections=3, owner=2)
    async with serving(owned(terminals=limits)) as rig:
        ann, bob = await environment(rig, ANN), await environment(rig, BOB)
        async with attached(rig, ann, token=ANN), attached(rig, ann, token=ANN, job=1):
            assert (await status(rig, ann, OFFER | bearer(ANN), query="?job=1"))[0] == 429
            async with attached(rig, bob, token=BOB) as third:
                code, _ = await status(rig, bob, OFFER | bearer(BOB), query="?job=1")
                assert code == 429
                await third.shows("$ ")
        async with attached(rig, ann, token=ANN, job=1) as again:
            await again.shows("$ ")


async def test_opening_counts_as_a_call() -> None:
    setup = owned(rates=RateLimiter(3, lambda: 0.0))
    async with serving(setup) as rig:
        made = await environment(rig, ANN)  # the first
        for _ in range(2):
            async with attached(rig, made, token=ANN) as screen:
                await screen.shows("$ ")
        code, text = await status(rig, made, OFFER | bearer(ANN))
        assert (code, "Too many calls" in text) == (429, True)


async def test_a_client_that_leaves_before_its_terminal_opens_leaves_none() -> None:
    async with serving(owned()) as rig:
        made = await environment(rig, ANN)
        await rig.services.environments.pause(made, owner="ann", to_disk=True)
        rig.host.hold = anyio.Event()
        rig.host.creating = anyio.Event()
        port = int(rig.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = {"Host": f"127.0.0.1:{port}"} | OFFER | bearer(ANN)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET /environments/{made}/terminal HTTP/1.1\r\n{head}\r\n".encode())
        await rig.host.creating.wait()
        writer.transport.abort()
        await until(lambda: rig.server.connections == 0)
        rig.host.hold.set()
        await until(lambda: bool(rig.services.jobs.newest(made, 1, owner="ann")))
        jobs = rig.services.jobs.newest(made, 1, owner="ann")
        await jobs[0].wait(10)
        assert not jobs[0].is_running


async def test_a_stopping_server_opens_no_terminal() -> None:
    setup = owned()
    setup.limits = replace(setup.limits, grace=5.0)
    async with serving(setup) as rig:
        made = await environment(rig, ANN)
        rig.web.endpoint._draining = True
        assert (await status(rig, made, OFFER | bearer(ANN)))[0] == 503
