# SPDX-License-Identifier: Apache-2.0
"""Toolsets that a client chooses in its URL, within the operator's offer; `/mcp/` is `/mcp`."""

from __future__ import annotations

import json
from typing import Any

import pytest
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

from waggle.domain.toolset import ALL_TOOLS, TOOLS, Offer, Toolset
from waggle.mcp.prompts import PROMPTS

pytestmark = pytest.mark.anyio
CORE = Offer(frozenset({Toolset.CORE}))
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
NARROW = Offer(frozenset({Toolset.CORE}), frozenset({Toolset.CORE, Toolset.PORTS}))


async def discovered(rig: Rig, query: str) -> str:
    """Return `server/discover`'s instructions. The SDK's client with a fixed era skips it."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "server/discover"}
    async with raw(rig) as http:
        message = request("server/discover", {"_meta": META})
        answer = await http.post(f"/mcp{query}", json=message, headers=headers)
        return answer.json()["result"]["instructions"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_sees_the_tools_that_it_chose(era: str) -> None:
    async with (
        serving(Setup(offer=CORE)) as rig,
        client(rig, era) as plain,
        client(rig, era, after="?toolsets=full") as full,
        client(rig, era, after="?a=b&toolsets=ports&toolsets=run") as few,
    ):
        for agent, query, names in (
            (plain, "", [*TOOLS[Toolset.CORE]]),
            (full, "?toolsets=full", [*ALL_TOOLS]),
            (few, "?toolsets=ports,run", ["expose_port", "unexpose_port", "run_code"]),
        ):
            assert [tool.name for tool in (await agent.list_tools()).tools] == names
            said = agent.instructions or await discovered(rig, query)
            assert all((name in said) is (name in names) for name in ALL_TOOLS), said
        assert [prompt.name for prompt in (await few.list_prompts()).prompts] == []
        listed = (await plain.list_prompts()).prompts
        assert len(listed) == len(PROMPTS) - 1  # without the one that forks
        types = {
            template.name for template in (await plain.list_resource_templates()).resource_templates
        }
        assert len((await full.list_resource_templates()).resource_templates) == len(types) + 1


@pytest.mark.parametrize("era", ERAS)
async def test_only_a_client_with_a_choice_is_limited_to_it(era: str) -> None:
    async with (
        serving(Setup(offer=NARROW)) as rig,
        client(rig, era) as plain,
        client(rig, era, after="?toolsets=core") as chose,
    ):
        port = {"environment_id": await created(plain), "port": 8000, "wait_seconds": 0}
        assert data_of(await plain.call_tool("expose_port", port))["url"]
        assert error_of(await chose.call_tool("expose_port", port))["code"] == "unknown_tool"
        for agent in (plain, chose):
            refused = error_of(await agent.call_tool("run_code", {"code": "1"}))
            assert refused["code"] == "unknown_tool"


@pytest.mark.parametrize("era", ERAS)
async def test_hints_name_no_tool_that_is_hidden_from_the_client(era: str) -> None:
    async with serving(Setup(offer=CORE)) as rig:
        arguments = {"environment_id": "nowhere", "path": "a"}
        hints: list[str] = []
        for query in ("?toolsets=files", ""):
            async with client(rig, era, after=query) as agent:
                hints.append(error_of(await agent.call_tool("read_file", arguments))["hint"])
        assert "list_environments" not in hints[0]
        assert "list_environments" in hints[1]


@pytest.mark.parametrize(
    "query, words",
    [
        ("toolsets=cores", "There is no toolset 'cores'. Use some of: core, environments"),
        ("toolsets=", "No toolset is named."),
        ("toolsets=%00%ff", "There is no toolset '\\x00\ufffd'."),
        ("toolsets=core&toolsets=x", "There is no toolset 'x'."),
        ("toolsets=run", "This server does not offer the toolset run. It offers: core, ports."),
    ],
)
async def test_an_unavailable_toolset_is_refused(query: str, words: str) -> None:
    async with serving(Setup(offer=NARROW)) as rig, raw(rig) as http:
        answer = await http.post(f"/mcp?{query}", json=INITIALIZE)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(words)
        assert (await http.get("/healthz?toolsets=x")).status_code == 200


async def test_lists_may_be_cached_for_an_hour() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        for listed in (
            await agent.list_tools(),
            await agent.list_prompts(),
            await agent.list_resource_templates(),
        ):
            assert (listed.ttl_ms, listed.cache_scope) == (3_600_000, "private")
        assert (await agent.list_resources()).ttl_ms == 0


async def test_the_environment_may_be_repeated_in_a_header_for_proxies() -> None:
    async with serving(Setup(parameter_headers=True)) as rig, client(rig, MODERN) as agent:
        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        for name in ("execute", "destroy_environment"):
            about = tools[name].input_schema["properties"]["environment_id"]
            assert about["x-mcp-header"] == "Environment-Id"
        environment = await created(agent)
        run = {"environment_id": environment, "code": "echo hi"}
        assert data_of(await agent.call_tool("execute", run))["stdout"] == "hi\n"
        headers = {
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": "tools/call",
            "Mcp-Name": "execute",
        }
        call = request("tools/call", {"name": "execute", "arguments": run, "_meta": META})
        async with raw(rig) as http:
            without = await http.post("/mcp", json=call, headers=headers)
            assert without.status_code == 400
            headers["Mcp-Param-Environment-Id"] = environment
            assert (await http.post("/mcp", json=call, headers=headers)).status_code == 200
    async with serving() as rig, client(rig, MODERN) as agent:
        assert "x-mcp-header" not in str((await agent.list_tools()).tools)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/?toolsets=core"])
async def test_a_slash_at_the_end_makes_no_difference(path: str) -> None:
    async with serving() as rig, raw(rig) as http:
        begun = await http.post(path, json=INITIALIZE)
        assert begun.status_code == 200
        session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        listed = await http.post(path, json=request("tools/list"), headers=session)
        assert "create_environment" in listed.text
        async with http.stream("GET", path, headers=session) as stream:
            assert stream.status_code == 200
        assert (await http.delete(path, headers=session)).status_code == 200
        assert (
            await http.post(path, json=request("tools/list"), headers=session)
        ).status_code == 404
        once = await http.post(path, json=request("tools/list"))
        assert len(json.loads(once.text)["result"]["tools"]) >= 10
        assert (await http.post("/mcp//", json=INITIALIZE)).status_code == 404
