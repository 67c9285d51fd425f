# SPDX-License-Identifier: Apache-2.0
"""Clients of other makers do the main job: list, create, execute, be refused, cancel, destroy.

Python's SDK in both eras and curl also have their own tests in tests/mcp, tests/web and tests/e2e.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.server import ERAS, LEGACY, MODERN, data_of, error_of, raw, request, serving
from tests.support.server import client as sdk
from tests.support.tools import environment, fastmcp_python, node_tools
from tests.support.waggle_process import running, small

from waggle.domain.toolset import TOOLS, Toolset

pytestmark = [pytest.mark.anyio, pytest.mark.net, pytest.mark.timeout(300)]
MAKERS = ("TypeScript", "fastmcp")
CALLS = Path(__file__).with_name("calls.json")
FAIL = [False] * 6 + [True, False, True, True, True, False]
"""Whether a call of calls.json fails, in their order."""
PARTS = frozenset({"content", "structuredContent", "isError"})


def command(maker: str) -> list[str]:
    if maker == "TypeScript":
        return node_tools().script("client.mjs")
    return [str(fastmcp_python()), str(Path(__file__).with_name("fastmcp_client.py"))]


async def seen_by(maker: str, home: Path, url: str, hang: str) -> dict[str, Any]:
    argv = await anyio.to_thread.run_sync(command, maker)
    variables = {k: v for k, v in environment(home).items() if k != "PYTHONPATH"}
    ended = await anyio.run_process([*argv, url, hang], env=variables, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return json.loads(ended.stdout.splitlines()[-1])


def check(seen: dict[str, Any], maker: str) -> None:
    assert {"create_environment", "execute", "destroy_environment"} <= set(seen["tools"])
    assert seen["stdout"] == f"from {maker}\n"
    assert seen["refused"]
    assert "There is no environment nonsense" in seen["why"]
    assert seen["ended"] == "cancelled"


@pytest.mark.parametrize("maker", MAKERS)
async def test_another_makers_client_does_the_main_job(maker: str, tmp_path: Path) -> None:
    async with serving() as rig:
        check(await seen_by(maker, tmp_path, rig.mcp, "hang"), maker)
        assert rig.host.only.cancelled
        assert rig.host.only.destroys


@pytest.mark.vm
@pytest.mark.parametrize("maker", MAKERS)
async def test_another_makers_client_works_with_a_real_machine(maker: str, tmp_path: Path) -> None:
    with running(tmp_path / "server", small(tmp_path)) as server:
        check(await seen_by(maker, tmp_path, server.mcp, "sleep 1000"), maker)


def plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a result that every client passes on, with omitted defaults filled in."""
    told: dict[str, Any] = {"isError": False}
    told.update({k: v for k, v in result.items() if k in PARTS})
    content: list[dict[str, Any]] = told["content"]
    blocks = [{k: v for k, v in block.items() if v is not None} for block in content]
    return {**told, "content": blocks}


async def seen_by_the_python_sdk(era: str) -> dict[str, Any]:
    async with serving() as rig, sdk(rig, era, after="?toolsets=core") as client:
        results = [await client.call_tool(*call) for call in json.loads(CALLS.read_text())]
        dumped = [r.model_dump(mode="json", by_alias=True, exclude_none=True) for r in results]
        listed = await client.list_tools()
        return {"tools": [tool.name for tool in listed.tools], "results": dumped}


async def test_all_clients_see_the_same_core_results(tmp_path: Path) -> None:
    """Text, structured content, a picture, cut output and errors of every kind."""
    expected = await seen_by_the_python_sdk(LEGACY)
    kinds = [{block["type"] for block in each["content"]} for each in expected["results"]]
    assert expected["tools"] == [*TOOLS[Toolset.CORE]]
    assert {"image", "text"} <= kinds[4]
    assert [bool(each.get("isError")) for each in expected["results"]] == FAIL
    seen = {"Python, stateless": await seen_by_the_python_sdk(MODERN)}
    for maker in MAKERS:
        async with serving() as rig:
            url = f"{rig.mcp}?toolsets=core"
            seen[maker] = await seen_by(maker, tmp_path, url, str(CALLS))
    for maker, told in seen.items():
        assert told["tools"] == expected["tools"], maker
        for call, here, there in zip(
            json.loads(CALLS.read_text()), told["results"], expected["results"], strict=True
        ):
            assert plain(here) == plain(there), (maker, call)


@pytest.mark.parametrize("era", ERAS)
async def test_the_python_sdk_does_the_main_job(era: str) -> None:
    async with serving() as rig, sdk(rig, era) as client:
        made = data_of(await client.call_tool("create_environment", {"runtime": "shell"}))
        arguments = {"environment_id": made["environment_id"], "code": "echo from Python"}
        assert data_of(await client.call_tool("execute", arguments))["stdout"] == "from Python\n"
        refused = await client.call_tool("execute", {"environment_id": "x", "code": "1"})
        assert error_of(refused)["code"] == "not_found"
        with anyio.move_on_after(20):
            async with anyio.create_task_group() as group:
                arguments = {**arguments, "code": "hang"}
                group.start_soon(client.call_tool, "execute", arguments)
                await rig.host.only.started.wait()
                group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await rig.host.only.was_cancelled.wait()


async def test_plain_http_lists_the_tools() -> None:
    async with serving() as rig, raw(rig) as http:
        listed = (await http.post("/mcp", json=request("tools/list"))).json()
        assert "execute" in {tool["name"] for tool in listed["result"]["tools"]}
