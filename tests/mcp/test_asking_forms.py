# SPDX-License-Identifier: Apache-2.0
"""Questions to clients by the forms of answer that they take: JSON alone, or event streams."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.support.asking import Person, connecting
from tests.support.server import (
    ERAS,
    INITIALIZE,
    MODERN,
    NO_TLS,
    Rig,
    Setup,
    created,
    raw,
    request,
    serving,
    text_of,
)

from waggle.domain.network.questions import NOBODY
from waggle.service.environments.questions import Questions

pytestmark = pytest.mark.anyio
LONG = 120.0
"""Seconds for an answer: a test that waits for them has failed."""


@asynccontextmanager
async def taking_json(rig: Rig, era: str, person: Person) -> AsyncGenerator[Client]:
    """Connect the SDK's client, whose requests accept JSON alone."""

    async def accept(sent: httpx2.Request) -> None:
        if sent.method == "POST":
            sent.headers["Accept"] = "application/json"

    async with httpx2.AsyncClient(
        verify=NO_TLS, timeout=30, event_hooks={"request": [accept]}
    ) as http:
        transport = streamable_http_client(rig.mcp, http_client=http)
        async with Client(transport, mode=era, elicitation_callback=person) as agent:
            yield agent


@pytest.mark.parametrize("era", ERAS)
async def test_the_sdk_with_json_alone_is_refused_at_once_or_asked_by_the_result(era: str) -> None:
    person = Person(["once"])
    setup = connecting(Setup(), Questions(seconds=LONG, grace=0.05))
    async with serving(setup) as rig, taking_json(rig, era, person) as agent:
        environment = await created(agent)
        with anyio.fail_after(20):
            arguments = {"environment_id": environment, "command": ["connect", "example.org"]}
            printed = text_of(await agent.call_tool("run_command", arguments))
        assert f"443 {'yes' if era == MODERN else NOBODY}" in printed
        assert len(person.messages) == (1 if era == MODERN else 0)
        assert rig.services.questions.desk(environment).is_quiet


FORMS: dict[str, Any] = {"capabilities": {"elicitation": {"form": {}}}}


async def opened(http: httpx2.AsyncClient) -> tuple[dict[str, str], str]:
    """Open a session of a client that declares forms; return its headers and an environment."""
    first: dict[str, Any] = {**INITIALIZE, "params": {**INITIALIZE["params"], **FORMS}}
    begun = await http.post("/mcp", json=first)
    version = begun.json()["result"]["protocolVersion"]
    headers = {"Mcp-Session-Id": begun.headers["mcp-session-id"], "MCP-Protocol-Version": version}
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await http.post("/mcp", json=done, headers=headers)).status_code == 202
    call = request("tools/call", {"name": "create_environment", "arguments": {}})
    made = await http.post("/mcp", json=call, headers={**headers, "Accept": "application/json"})
    return headers, made.json()["result"]["structuredContent"]["environment_id"]


def connect(environment: str) -> dict[str, Any]:
    arguments = {"environment_id": environment, "command": ["connect", "example.org"]}
    return request("tools/call", {"name": "run_command", "arguments": arguments})


async def test_a_plain_client_that_takes_json_alone_is_refused_at_once() -> None:
    setup = connecting(Setup(), Questions(seconds=LONG, grace=0.05))
    async with serving(setup) as rig, raw(rig) as http:
        headers, environment = await opened(http)
        headers["Accept"] = "application/json"
        with anyio.fail_after(20):
            answer = await http.post("/mcp", json=connect(environment), headers=headers)
        assert answer.headers["content-type"] == "application/json"
        assert f"443 {NOBODY}" in answer.json()["result"]["content"][0]["text"]


async def test_a_plain_client_that_takes_both_is_asked_on_the_stream_of_its_call() -> None:
    setup = connecting(Setup(), Questions(seconds=LONG))
    async with serving(setup) as rig, raw(rig) as http:
        headers, environment = await opened(http)
        call = connect(environment)
        with anyio.fail_after(20):
            async with http.stream("POST", "/mcp", json=call, headers=headers) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                result: dict[str, Any] = {}
                async for line in stream.aiter_lines():
                    message: dict[str, Any] = (
                        json.loads(line[6:]) if line.startswith("data: {") else {}
                    )
                    if message.get("method") == "elicitation/create":
                        yes = {"action": "accept", "content": {"answer": "once"}}
                        reply = {"jsonrpc": "2.0", "id": message["id"], "result": yes}
                        taken = await http.post("/mcp", json=reply, headers=headers)
                        assert taken.status_code == 202
                    elif message.get("id") == call["id"]:
                        result = message["result"]
        assert "example.org:443 yes" in result["content"][0]["text"]
