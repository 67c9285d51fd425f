# SPDX-License-Identifier: Apache-2.0
"""The listener: bind errors, slow and oversized heads, and a stop that lets calls finish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from mcp import Client, MCPError
from tests.support.server import (
    ERAS,
    INITIALIZE,
    MODERN,
    Rig,
    Setup,
    client,
    created,
    data_of,
    error_of,
    raw,
    request,
    serving,
)

from waggle.domain.errors import SettingsInvalid
from waggle.web.connections import ConnectionLimits
from waggle.web.protocol import GuardedProtocol
from waggle.web.server import ServerLimits, bind, url_of

pytestmark = pytest.mark.anyio
PATIENT = ServerLimits(grace=20)


@asynccontextmanager
async def connection(
    rig: Rig,
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(rig.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


def test_an_unusable_address_is_reported_in_one_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(SettingsInvalid, match=f"port {port}: Address already in use") as raised:
            bind("127.0.0.1", port)
        assert "WAGGLE_LISTEN_ADDR" in raised.value.hint
    for host, wrong in (("192.0.2.1", 8080), ("127.0.0.1", 70_000), ("no.such.invalid", 1)):
        with pytest.raises(SettingsInvalid, match="Cannot listen"):
            bind(host, wrong)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_ipv6_addresses_are_written_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with bind("::1", 0) as listener:
        assert url_of(listener).startswith("http://[::1]:")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n",
    ],
)
async def test_a_client_that_sends_slowly_is_cut(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.05)
    async with serving() as rig, connection(rig) as (reader, writer):
        writer.write(sent)
        with anyio.fail_after(5):
            answer = await reader.read(200)
            if answer:  # the answer that needs no body
                assert answer.startswith(b"HTTP/1.1 200 ")
                writer.write(b"x")
                while await reader.read(200):
                    pass


async def test_a_slow_second_request_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.05)
    async with serving() as rig, connection(rig) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b'{"status":"ok"}')
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /hea")
        with anyio.fail_after(5):
            assert await reader.read() == b""


async def test_a_long_call_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.01)
    async with serving() as rig, client(rig) as connected:
        environment = await created(connected)
        guest = rig.host.guests[environment]
        async with anyio.create_task_group() as group:
            group.start_soon(finish, connected, environment)
            await guest.started.wait()
            await anyio.sleep(0.05)
            guest.release.set()


async def finish(connected: Client, environment: str) -> None:
    """Run a program that hangs until it is released, and check its result."""
    arguments = {"environment_id": environment, "code": "hang\necho done"}
    assert data_of(await connected.call_tool("execute", arguments))["stdout"] == "done\n"


async def test_an_oversized_head_is_refused() -> None:
    async with serving() as rig, connection(rig) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000)
        with anyio.fail_after(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_an_idle_connection_is_closed_if_there_are_too_many() -> None:
    setup = Setup(limits=ServerLimits(grace=0, connections=ConnectionLimits(connections=3)))
    async with (
        serving(setup) as rig,
        connection(rig) as (silent, _),
        connection(rig) as (kept, writer),
    ):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await kept.readuntil(b'{"status":"ok"}')
        async with raw(rig) as http, raw(rig) as other:
            for caller in (http, other, http, other):
                assert (await caller.get("/healthz")).status_code == 200
        with anyio.fail_after(5), contextlib.suppress(ConnectionError):
            assert await silent.read() == b""


@pytest.mark.parametrize("limits", [ConnectionLimits(connections=1), ConnectionLimits(owner=1)])
async def test_concurrent_requests_over_the_limit_are_refused(limits: ConnectionLimits) -> None:
    setup = Setup(limits=ServerLimits(grace=0, connections=limits))
    async with serving(setup) as rig, client(rig, MODERN) as connected, raw(rig) as http:
        guest = rig.host.guests[environment := await created(connected)]
        async with anyio.create_task_group() as group:
            group.start_soon(finish, connected, environment)
            await guest.started.wait()
            refused = await http.post("/mcp", json=request("tools/list"))
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            ready = await http.get("/readyz")
            assert ready.status_code == (503 if limits.connections == 1 else 200)
            guest.release.set()
        assert (await http.post("/mcp", json=request("tools/list"))).status_code == 200


async def stopping(rig: Rig) -> None:
    """Stop the server, and wait until it refuses new calls."""
    rig.server.stop()
    with anyio.fail_after(5):
        while not rig.web.endpoint.draining:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("era", ERAS)
async def test_a_stop_lets_calls_finish_and_refuses_new_ones(era: str) -> None:
    async with serving(Setup(limits=PATIENT)) as rig, raw(rig) as http:
        async with client(rig, era) as connected:
            environment = await created(connected)
            guest = rig.host.guests[environment]
            opened = await http.post("/mcp", json=INITIALIZE)
            session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            async with anyio.create_task_group() as group:
                group.start_soon(finish, connected, environment)
                await guest.started.wait()
                await stopping(rig)
                call = request("tools/call", {"name": "list_environments"}, number=8)
                for headers in ({}, session):
                    refused = await http.post("/mcp", json=call, headers=headers)
                    assert refused.status_code == 503
                    assert refused.json()["id"] == 8
                    assert "shutting down" in refused.json()["error"]["message"]
                assert (await http.get("/readyz")).status_code == 503
                assert (await http.get("/healthz")).status_code == 200
                guest.release.set()
        assert not guest.cancelled


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_never_listed_the_tools_gets_its_last_result(era: str) -> None:
    """The client lists the tools on a result, to check it, and loses the result if it cannot."""
    async with serving(Setup(limits=PATIENT)) as rig, raw(rig) as http:
        create = request("tools/call", {"name": "create_environment", "arguments": SHELL})
        await http.post("/mcp", json=create)
        guest = rig.host.only
        async with client(rig, era) as connected, anyio.create_task_group() as group:
            group.start_soon(finish, connected, guest.environment.id)
            await guest.started.wait()
            await stopping(rig)
            guest.release.set()


SHELL = {"runtime": "shell"}


async def test_a_stopping_server_still_lists_its_tools() -> None:
    async with serving(Setup(limits=PATIENT)) as rig, raw(rig) as http, client(rig) as connected:
        guest = rig.host.guests[environment := await created(connected)]
        opened = await http.post("/mcp", json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        async with anyio.create_task_group() as group:
            group.start_soon(finish, connected, environment)
            await guest.started.wait()
            await stopping(rig)
            bare = await http.post("/mcp", json=request("tools/list"))
            assert bare.headers["content-type"] == "application/json"
            listed = await http.post("/mcp", json=request("tools/list"), headers=session)
            assert listed.headers["mcp-session-id"] == session["Mcp-Session-Id"]
            assert '"create_environment"' in listed.text
            assert (await http.post("/mcp", json=INITIALIZE)).status_code == 503
            guest.release.set()


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_outlasts_the_grace_period_gets_a_reason(era: str) -> None:
    setup = Setup(limits=ServerLimits(grace=0.05))
    async with serving(setup) as rig, client(rig, era) as connected:
        environment = await created(connected)
        guest = rig.host.guests[environment]
        refusals: list[dict[str, Any]] = []

        async def call() -> None:
            arguments = {"environment_id": environment, "code": "hang"}
            refusals.append(error_of(await connected.call_tool("execute", arguments)))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await guest.started.wait()
                rig.server.stop()
        assert guest.was_cancelled.is_set()
        assert (refusals[0]["code"], refusals[0]["retryable"]) == ("shutting_down", True)


@pytest.mark.parametrize("era", ERAS)
async def test_a_read_that_outlasts_the_grace_period_gets_a_reason(era: str) -> None:
    setup = Setup(limits=ServerLimits(grace=0.05))
    async with serving(setup) as rig, client(rig, era) as connected:
        environment = await created(connected)
        guest = rig.host.guests[environment]
        guest.file_hold = anyio.Event()
        refusals: list[MCPError] = []

        async def read() -> None:
            with pytest.raises(MCPError) as refused:
                await connected.read_resource(f"waggle://environments/{environment}/files/a")
            refusals.append(refused.value)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await guest.started.wait()
                rig.server.stop()
        assert refusals[0].error.data["waggle/error"]["code"] == "shutting_down"


async def test_a_bare_call_that_is_cut_gets_a_complete_answer() -> None:
    setup = Setup(limits=ServerLimits(grace=0.05))
    async with serving(setup) as rig, client(rig) as connected, raw(rig) as http:
        environment = await created(connected)
        guest = rig.host.guests[environment]
        answers: list[httpx2.Response] = []

        async def call() -> None:
            arguments = {"environment_id": environment, "code": "hang"}
            message = request("tools/call", {"name": "execute", "arguments": arguments})
            answers.append(await http.post("/mcp", json=message))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await guest.started.wait()
                rig.server.stop()
        (answer,) = answers
        assert answer.status_code == 200
        data = next(x for x in answer.text.splitlines() if x.startswith("data: {"))
        result = json.loads(data.removeprefix("data: "))["result"]
        assert result["isError"]
        assert "had to stop this call" in result["content"][0]["text"]


async def call_until_cut(connected: Client, environment: str) -> None:
    await connected.call_tool("execute", {"environment_id": environment, "code": "hang"})


async def test_after_a_stop_the_port_is_free_and_nothing_runs() -> None:
    async with serving() as rig, client(rig) as connected:
        await created(connected)
        port = int(rig.url.rpartition(":")[2])
    with bind("127.0.0.1", port):
        pass


async def test_cancelling_a_stop_ends_its_grace_period() -> None:
    setup = Setup(limits=PATIENT)
    async with serving(setup) as rig, client(rig) as connected:
        environment = await created(connected)
        guest = rig.host.guests[environment]
        async with anyio.create_task_group() as group:
            group.start_soon(call_until_cut, connected, environment)
            await guest.started.wait()
            rig.server.stop()
            with anyio.fail_after(5):
                while not rig.web.endpoint.draining:
                    await anyio.lowlevel.checkpoint()
                rig.cancel()
                await guest.was_cancelled.wait()
            group.cancel_scope.cancel()


async def test_cancelling_the_server_frees_its_port() -> None:
    port = 0
    with anyio.CancelScope() as scope:
        async with serving(Setup(limits=PATIENT)) as rig:
            port = int(rig.url.rpartition(":")[2])
            scope.cancel()
            await anyio.sleep_forever()
    with bind("127.0.0.1", port):
        pass
