# SPDX-License-Identifier: Apache-2.0
"""The tools, schemas, hints and instructions that the server publishes."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator
from mcp import Client
from mcp_types import Tool
from tests.support.server import ERAS, LEGACY, MODERN, client, default_tools, mcp_server, serving

from waggle import __version__
from waggle.mcp.surfaces import instructions

pytestmark = pytest.mark.anyio

ORIGINAL: dict[str, tuple[set[str], set[str]]] = {
    "create_environment": (set(), {"runtime", "name", "timeout_minutes"}),  # or from a snapshot
    "destroy_environment": ({"environment_id"}, set()),
    "list_environments": (set(), set()),
    "execute": ({"code"}, {"environment_id", "language", "timeout_seconds"}),
    "write_file": ({"path", "content"}, {"environment_id"}),
    "read_file": ({"environment_id", "path"}, set()),
    "list_files": ({"environment_id"}, {"path"}),
    "install_packages": ({"packages"}, {"environment_id"}),
}
NAMES = [tool.name for tool in default_tools()]
INSTRUCTIONS = instructions(NAMES)
RESULTS = {
    "create_environment": "environment_id name runtime status timeout",
    "destroy_environment": "status",
    "list_environments": "environments count",
    "write_file": "path bytes_written",
    "list_files": "files count",
    "install_packages": "stdout stderr exit_code",
}
PICTURES = {"execute", "run_code", "run_command", "read_file", "read_job", "wait_job"}
"""Tools without an output schema: structured content would hide the pictures they may return."""


async def published(era: str) -> dict[str, Tool]:
    async with serving() as rig, client(rig, era) as agent:
        return {tool.name: tool for tool in (await agent.list_tools()).tools}


@pytest.mark.parametrize("era", ERAS)
async def test_the_tools_of_the_original_exist_with_their_parameters(era: str) -> None:
    tools = await published(era)
    assert set(ORIGINAL) < set(tools)
    for name, (required, optional) in ORIGINAL.items():
        schema = tools[name].input_schema
        assert set(schema.get("required", [])) == required
        assert required | optional <= set(schema["properties"])
        output = tools[name].output_schema
        assert (output is None) == (name in PICTURES)
        if output is not None:
            assert set(RESULTS[name].split()) <= set(output["properties"])


async def test_everything_published_is_described_and_valid() -> None:
    for tool in (await published(LEGACY)).values():
        assert tool.title
        assert tool.description
        assert len(tool.description) < 1_000
        assert (tool.output_schema is None) == (tool.name in PICTURES)
        for schema in filter(None, (tool.input_schema, tool.output_schema)):
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"


async def test_hints_are_correct() -> None:
    tools = await published(MODERN)
    hints = {name: tool.annotations for name, tool in tools.items()}
    assert all(hint is not None for hint in hints.values())
    reading = {name for name, hint in hints.items() if hint and hint.read_only_hint}
    assert reading == {
        "list_environments",
        "get_environment",
        "read_file",
        "list_files",
        "wait_job",
        "list_jobs",
        "search_files",
        "download_files",
        "list_snapshots",
    }
    destructive = {name for name, hint in hints.items() if hint and hint.destructive_hint}
    assert destructive == {
        "keep_fork",
        "destroy_environment",
        "delete_snapshot",
        "restart_environment",
        "rollback_environment",
    }
    idempotent = {name for name, hint in hints.items() if hint and hint.idempotent_hint}
    assert idempotent == {
        "keep_fork",
        "destroy_environment",
        "upload_files",
        "extend_environment",
        "set_network",
        "write_file",
        "install_packages",
        "kill_job",
        "read_job",
        "expose_port",
        "unexpose_port",
        "pause_environment",
        "resume_environment",
        "rollback_environment",
    }
    outside = {name for name, hint in hints.items() if hint and hint.open_world_hint}
    assert outside == {"execute", "run_command", "run_code", "install_packages"}


@pytest.mark.parametrize("era", ERAS)
async def test_the_server_introduces_itself(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        if era == LEGACY:
            assert agent.server_info is not None
            assert (agent.server_info.name, agent.server_info.version) == (
                "waggle",
                __version__,
            )
            assert agent.instructions == INSTRUCTIONS
        await agent.list_tools()
    assert len(INSTRUCTIONS) < 2_048
    for name in NAMES:
        assert name in INSTRUCTIONS or name == "list_environments"


@pytest.mark.parametrize("era", ERAS)
async def test_the_server_works_without_http(era: str) -> None:
    async with mcp_server() as server, Client(server, mode=era) as agent:
        result = await agent.call_tool("create_environment", {"runtime": "shell"})
        assert not result.is_error
