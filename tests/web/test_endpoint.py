# SPDX-License-Identifier: Apache-2.0
"""/mcp over real HTTP: bad messages, sessions and their limits, and cancelled calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from tests.support.fakes import FakeGuest
from tests.support.server import (
    ERAS,
    INITIALIZE,
    LEGACY,
    MODERN,
    Rig,
    Setup,
    client,
    created,
    data_of,
    raw,
    request,
    serving,
)
from tests.support.wire import TRACES

from waggle.web.sdk import SessionLimits

pytestmark = pytest.mark.anyio

VERSION = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "execute"}


@pytest.mark.parametrize("era", ERAS)
async def test_both_eras_work_side_by_side(era: str) -> None:
    async with serving() as rig, client(rig, era) as one, client(rig, LEGACY) as other:
        assert one.protocol_version == ("2025-11-25" if era == LEGACY else MODERN)
        environment = await created(one)
        listed = data_of(await other.call_tool("list_environments", {}))
        assert [e["environment_id"] for e in listed["environments"]] == [environment]


BAD_MESSAGES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", -32700),
    "no json": (b"{nope", -32700),
    "half a message": (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/', -32700),
    "not utf-8": (b'{"jsonrpc": "2.0", "method": "\xff"}', -32700),
    "lone surrogate": (b'{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}', -32700),
    "deep": (b"[" * 100_000, -32600),
    "a batch": (b'[{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]', -32600),
    "a number": (b"5", -32600),
    "no version": (b'{"id": 1, "method": "tools/list"}', -32600),
    "odd method": (b'{"jsonrpc": "2.0", "id": 1, "method": {"a": 1}}', -32600),
    "neither request nor answer": (b'{"jsonrpc": "2.0"}', -32600),
    "an id alone": (b'{"jsonrpc": "2.0", "id": 1}', -32600),
    "odd result": (b'{"jsonrpc": "2.0", "id": 1, "result": 5}', -32600),
    "odd error": (b'{"jsonrpc": "2.0", "id": 1, "error": {"code": "x"}}', -32600),
    "odd params": (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": []}', -32600),
    **{
        f"id {number}": (
            b'{"jsonrpc": "2.0", "id": %s, "method": "tools/list"}' % number.encode(),
            -32600,
        )
        for number in ('{"a": 1}', "[]", "true", "null", "1.5", "1.0", "1e400")
    },
}


@pytest.mark.parametrize("inside", ["a session", "no session"])
async def test_a_malformed_message_is_refused_in_json(inside: str) -> None:
    async with serving() as rig, raw(rig) as http:
        headers = {"Content-Type": "application/json"}
        if inside == "a session":
            opened = await http.post("/mcp", json=INITIALIZE)
            headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
        for name, (body, code) in BAD_MESSAGES.items():
            answer = await http.post("/mcp", content=body, headers=headers)
            assert answer.status_code == 400, name
            assert answer.json()["error"]["code"] == code, name
            assert not [trace for trace in TRACES if trace in answer.text], name
            assert "validation error" not in answer.text, name
            assert len(answer.text) < 300, name


async def test_a_lone_surrogate_is_refused_with_the_requests_id() -> None:
    """JSON.stringify of JavaScript writes half of a cut emoji as an escape."""
    arguments = {"environment_id": "e", "code": "echo \ud83d"}
    call = request("tools/call", {"name": "execute", "arguments": arguments}, number=7)
    async with serving() as rig, raw(rig) as http:
        opened = await http.post("/mcp", json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        http.headers["Content-Type"] = "application/json"
        for headers in ({}, session):
            answer = await http.post("/mcp", content=json.dumps(call), headers=headers)
            assert (answer.status_code, answer.json()["id"]) == (400, 7)
            assert "a lone surrogate" in answer.json()["error"]["message"]


async def test_other_content_types_and_methods_are_refused_in_json() -> None:
    async with serving() as rig, raw(rig) as http:
        form = await http.post("/mcp", data={"a": "b"})
        assert (form.status_code, "application/json" in form.json()["error"]["message"]) == (
            415,
            True,
        )
        for method in ("GET", "DELETE", "PUT", "OPTIONS"):
            answer = await http.request(method, "/mcp")
            assert answer.status_code == 405
            assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    "accept, form",
    [
        (None, "application/json"),
        ("", "application/json"),
        ("application/json", "application/json"),
        ("application/*;q=0.5", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("text/*", "text/event-stream"),
        ("application/json, text/event-stream", "text/event-stream"),
        ("*/*", "text/event-stream"),
    ],
)
async def test_a_call_is_answered_in_the_form_that_its_client_accepts(
    accept: str | None, form: str
) -> None:
    call = request("tools/call", {"name": "list_environments"}, number=7)
    async with serving() as rig, raw(rig) as http:
        opened = await http.post("/mcp", json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        del http.headers["Accept"]
        headers = {} if accept is None else {"Accept": accept}
        for where in ({}, session):
            answer = await http.post("/mcp", json=call, headers=where | headers)
            assert answer.headers["content-type"].partition(";")[0] == form
            text = answer.text if form.endswith("json") else answer.text.partition("data: ")[2]
            assert (json.loads(text)["id"], answer.status_code) == (7, 200)
            note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            noted = await http.post("/mcp", json=note, headers=where | headers)
            assert (noted.status_code, noted.text) == (202, "")


async def test_a_client_of_event_streams_gets_one_for_initialize_too() -> None:
    async with serving() as rig, raw(rig) as http:
        only = {"Accept": "text/event-stream", "Content-Type": "Application/JSON"}
        opened = await http.post("/mcp", content=json.dumps(INITIALIZE), headers=only)
        assert opened.headers["content-type"].startswith("text/event-stream")
        assert opened.headers["mcp-session-id"]


async def test_a_client_that_accepts_neither_form_opens_no_session() -> None:
    async with serving() as rig, raw(rig) as http:
        for accept in ("text/html", "image/png, text/plain"):
            answer = await http.post("/mcp", json=INITIALIZE, headers={"Accept": accept})
            assert (answer.status_code, answer.json()["error"]["code"]) == (406, -32600)
        listening = {**VERSION, "Mcp-Method": "subscriptions/listen", "Accept": "application/json"}
        endless = await http.post("/mcp", json=request("subscriptions/listen"), headers=listening)
        assert endless.status_code == 406
        assert rig.web.endpoint.sessions == 0


async def test_an_unknown_session_is_not_found() -> None:
    """Claude Code opens a new session only for this code together with this status."""
    async with serving() as rig, raw(rig) as http:
        for session in ("made-up", "x" * 4_000, "../../etc", ""):
            headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream, application/json"}
            error = {"code": -32001, "message": "Session not found"}
            posted = await http.post("/mcp", json=request("tools/list", number=7), headers=headers)
            assert posted.status_code == 404
            assert posted.json() == {"jsonrpc": "2.0", "id": 7, "error": error}
            for method in ("GET", "DELETE"):
                answer = await http.request(method, "/mcp", headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (404, error)


async def test_initialize_with_a_lost_session_opens_a_new_one() -> None:
    async with serving() as rig, raw(rig) as http:
        lost = {"Mcp-Session-Id": "of-the-server-before"}
        opened = await http.post("/mcp", json=INITIALIZE, headers=lost)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        assert (opened.status_code, session == lost) == (200, False)
        again = await http.post("/mcp", json=INITIALIZE, headers=session)
        assert again.headers["mcp-session-id"] == opened.headers["mcp-session-id"]
        assert rig.web.endpoint.sessions == 1


@pytest.mark.parametrize("version", ["1999-01-01", "1.0", "", "2099-01-01"])
@pytest.mark.parametrize("message", [request("tools/list"), INITIALIZE])
async def test_an_unknown_protocol_version_is_answered_with_known_ones(
    version: str, message: object
) -> None:
    async with serving() as rig, raw(rig) as http:
        answer = await http.post("/mcp", json=message, headers={"MCP-Protocol-Version": version})
        assert (answer.status_code, answer.json()["id"]) == (400, 1)
        error = answer.json()["error"]
        assert error["code"] == -32022
        assert error["data"]["requested"] == version
        for known in (MODERN, "2025-11-25"):
            assert known in error["message"]
            assert known in error["data"]["supported"]


async def test_a_request_without_a_session_gets_the_versions_for_it() -> None:
    """The list is the one that `server/discover` gives, as the protocol requires."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"MCP-Protocol-Version": "2099-01-01", "Mcp-Method": "tools/list"}
    async with serving() as rig, raw(rig) as http:
        message = request("tools/list", {"_meta": meta})
        answer = await http.post("/mcp", json=message, headers=headers)
        assert answer.json()["error"]["code"] == -32022
        assert answer.json()["error"]["data"]["supported"] == [MODERN]


async def test_sessions_have_a_limit_and_bare_calls_have_none() -> None:
    setup = Setup(sessions=SessionLimits(idle_seconds=60, maximum=2))
    async with serving(setup) as rig, raw(rig) as http:
        opened = [await http.post("/mcp", json=INITIALIZE) for _ in range(3)]
        assert [answer.status_code for answer in opened] == [200, 200, 503]
        bare = await http.post("/mcp", json=request("tools/list"))
        assert bare.status_code == 200
        session = {"Mcp-Session-Id": opened[0].headers["mcp-session-id"]}
        await http.delete("/mcp", headers=session)
        assert (await http.post("/mcp", json=INITIALIZE)).status_code == 200


async def test_an_idle_session_ends() -> None:
    setup = Setup(sessions=SessionLimits(idle_seconds=0.05, maximum=1))
    async with serving(setup) as rig, raw(rig) as http:
        assert (await http.post("/mcp", json=INITIALIZE)).status_code == 200
        answer = None
        with anyio.fail_after(10):
            while answer is None or answer.status_code == 503:
                answer = await http.post("/mcp", json=INITIALIZE)
        assert answer.status_code == 200


async def hanging(rig: Rig, connected: Client) -> tuple[str, FakeGuest]:
    """Create an environment in which the next call will hang."""
    environment = await created(connected)
    return environment, rig.host.guests[environment]


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_stops_the_program(era: str) -> None:
    async with serving() as rig, client(rig, era) as connected:
        environment, guest = await hanging(rig, connected)
        arguments = {"environment_id": environment, "code": "hang"}
        async with anyio.create_task_group() as group:
            group.start_soon(connected.call_tool, "execute", arguments)
            await guest.started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await guest.was_cancelled.wait()
        assert rig.services.environments.get(environment, owner="local").active_calls == 0


@pytest.mark.parametrize("headers", [{}, {"MCP-Protocol-Version": "2025-11-25"}, VERSION])
async def test_hanging_up_stops_the_program_of_a_bare_call(headers: dict[str, str]) -> None:
    async with serving() as rig, client(rig) as connected:
        environment, guest = await hanging(rig, connected)
        arguments = {"environment_id": environment, "code": "hang"}
        call = request("tools/call", {"name": "execute", "arguments": arguments})
        if headers is VERSION:
            call["params"]["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        async with anyio.create_task_group() as group, raw(rig) as http:
            group.start_soon(post_quietly, http, call, headers)
            with anyio.fail_after(5):
                await guest.started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await guest.was_cancelled.wait()


async def post_quietly(
    http: httpx2.AsyncClient, call: object, headers: Mapping[str, str] | None = None
) -> None:
    await http.post("/mcp", json=call, headers=headers)


async def hang_up_during_create(rig: Rig, **arguments: object) -> None:
    """Hang up on a create that waits for the host."""
    hold = rig.host.hold = anyio.Event()
    rig.host.creating = anyio.Event()
    call = request("tools/call", {"name": "create_environment", "arguments": arguments})
    async with anyio.create_task_group() as group, raw(rig) as http:
        group.start_soon(post_quietly, http, call)
        await rig.host.creating.wait()
        group.cancel_scope.cancel()
    rig.host.hold = None
    await anyio.sleep(0.05)
    hold.set()


async def test_the_same_call_continues_a_create_that_was_given_up() -> None:
    async with serving(Setup(max_environments=1)) as rig, client(rig) as connected:
        arguments = {"runtime": "python", "files": {"a.txt": "hello"}, "idempotency_key": "k"}
        await hang_up_during_create(rig, **arguments)
        made = data_of(await connected.call_tool("create_environment", arguments))
        assert [*rig.host.guests] == [made["environment_id"]]
        where = {"environment_id": made["environment_id"], "path": "a.txt"}
        assert data_of(await connected.call_tool("read_file", where))["content"] == "hello"
        again = data_of(await connected.call_tool("create_environment", arguments))
        assert again == made, "its key is that of what it made"


async def test_a_create_that_was_given_up_blocks_no_other_create() -> None:
    async with serving(Setup(max_environments=1)) as rig, client(rig) as connected:
        await hang_up_during_create(rig, runtime="python")
        environment = await created(connected, "node")
        listed = data_of(await connected.call_tool("list_environments", {}))
        assert [shown["environment_id"] for shown in listed["environments"]] == [environment]


async def test_a_session_and_its_call_survive_a_lost_connection() -> None:
    async with serving() as rig, raw(rig) as http, client(rig) as connected:
        environment, guest = await hanging(rig, connected)
        opened = await http.post("/mcp", json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        arguments = {"environment_id": environment, "code": "hang"}
        call = request("tools/call", {"name": "execute", "arguments": arguments}, number=7)
        async with anyio.create_task_group() as group, raw(rig) as lost:
            group.start_soon(lambda: lost.post("/mcp", json=call, headers=session))
            await guest.started.wait()
            group.cancel_scope.cancel()
        again = await http.post("/mcp", json=request("tools/list"), headers=session)
        assert again.status_code == 200
        assert not guest.cancelled
        cancel = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": 7},
        }
        assert (await http.post("/mcp", json=cancel, headers=session)).status_code == 202
        with anyio.fail_after(5):
            await guest.was_cancelled.wait()


async def test_ending_a_session_stops_its_calls() -> None:
    async with serving() as rig, client(rig) as watcher:
        environment, guest = await hanging(rig, watcher)
        arguments = {"environment_id": environment, "code": "hang"}
        async with raw(rig) as http, anyio.create_task_group() as group:
            opened = await http.post("/mcp", json=INITIALIZE)
            session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            call = request("tools/call", {"name": "execute", "arguments": arguments})
            group.start_soon(post_quietly, http, call, session)
            await guest.started.wait()
            await http.delete("/mcp", headers=session)
            with anyio.fail_after(5):
                await guest.was_cancelled.wait()


async def test_many_clients_at_once() -> None:
    async with serving(Setup(max_environments=20)) as rig:

        async def work(era: str) -> None:
            async with client(rig, era) as connected:
                environment = await created(connected)
                for _ in range(5):
                    arguments = {"environment_id": environment, "code": "echo hi"}
                    assert (
                        data_of(await connected.call_tool("execute", arguments))["exit_code"] == 0
                    )

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(work, ERAS[number % 2])


@pytest.mark.parametrize("params", [{}, {"name": 5}, {"name": "execute", "arguments": "x"}])
async def test_a_malformed_call_is_a_short_protocol_error(params: dict[str, object]) -> None:
    async with serving() as rig, raw(rig) as http:
        answer = await http.post("/mcp", json=request("tools/call", params))
        assert '"code":-32602' in answer.text
        assert "Traceback" not in answer.text
        assert len(answer.text) < 200
