# SPDX-License-Identifier: Apache-2.0
"""The curl calls of the development guide, as the guide writes them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import anyio.to_thread
import pytest
from tests.support.curl import INITIALIZE_CALL, LIST_CALL, TOOL_CALL
from tests.support.server import INITIALIZE, Rig, default_tools, raw, request, serving

pytestmark = pytest.mark.anyio


TOOLS = [tool.name for tool in default_tools()]


async def shell(rig: Rig, script: str) -> Any:
    """Run a script against the rig as a person would, and return the JSON that it prints."""
    script = script.replace("http://127.0.0.1:8080", rig.url)
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            capture_output=True,
            timeout=30,
            check=False,
        )
    )
    assert done.returncode == 0, done
    return json.loads(done.stdout)


async def test_the_three_calls_work_as_written() -> None:
    async with serving() as rig:
        first = await shell(rig, INITIALIZE_CALL)
        second = await shell(rig, LIST_CALL)
        third = await shell(rig, TOOL_CALL)
    assert first["result"]["serverInfo"]["name"] == "waggle"
    assert first["result"]["protocolVersion"] == "2025-11-25"
    assert second["id"] == 2
    assert [tool["name"] for tool in second["result"]["tools"]] == TOOLS
    assert third["result"]["structuredContent"]["status"] == "running"


async def test_immediate_answers_are_json_and_calls_are_event_streams() -> None:
    async with serving() as rig, raw(rig) as http:
        first = await http.post("/mcp", json=INITIALIZE)
        assert first.headers["content-type"] == "application/json"
        assert first.json()["result"]["serverInfo"]["name"] == "waggle"
        assert first.headers["mcp-session-id"]
        version = {"MCP-Protocol-Version": "2025-11-25"}
        for headers in ({}, version):
            listed = await http.post("/mcp", json=request("tools/list"), headers=headers)
            assert listed.headers["content-type"] == "application/json"
            assert [tool["name"] for tool in listed.json()["result"]["tools"]] == TOOLS
            assert "mcp-session-id" not in listed.headers
        call = request("tools/call", {"name": "list_environments"})
        called = await http.post("/mcp", json=call, headers=version)
        assert called.headers["content-type"].startswith("text/event-stream")
        (data,) = [line for line in called.text.splitlines() if line.startswith("data: ")]
        assert json.loads(data[6:])["result"]["structuredContent"].get("count", 0) == 0


async def test_curl_works_with_its_default_accept_header() -> None:
    async with serving() as rig, raw(rig) as http:
        answer = await http.post("/mcp", json=request("tools/list"), headers={"Accept": "*/*"})
    assert len(answer.json()["result"]["tools"]) == len(TOOLS)


async def test_a_session_opened_by_curl_can_be_used_and_ended_by_curl() -> None:
    async with serving() as rig, raw(rig) as http:
        opened = await http.post("/mcp", json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await http.post("/mcp", json=initialized, headers=session)).status_code == 202
        listed = await http.post("/mcp", json=request("tools/list"), headers=session)
        assert listed.status_code == 200
        assert (await http.delete("/mcp", headers=session)).status_code == 200
        gone = await http.post("/mcp", json=request("tools/list"), headers=session)
        assert gone.status_code == 404
