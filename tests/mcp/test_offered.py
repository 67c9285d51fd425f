# SPDX-License-Identifier: Apache-2.0
"""Narrowed toolsets: answers and errors name only tools that are offered."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, Tool
from tests.support.fakes import FakeFile, FakeGuest, FakeHost
from tests.support.server import Setup, data_of, make_services, text_of

from waggle.domain.access import LOCAL
from waggle.domain.diagnosis import Diagnosis
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.toolset import ALL_TOOLSETS, TOOLS, Toolset
from waggle.mcp.server import build_mcp
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio
NAMES = [name for names in TOOLS.values() for name in names]
NAMED = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")
UNKNOWN = "00000000-0000-4000-8000-00000000ffff"
FAILURE = Diagnosis(
    "module_not_found",
    "It is not there.",
    "Write its file; write_file does that. install_packages gets packages; run_command works as "
    "root. Start less at once, and use kill_job or execute. Look at it again.",
)
TOPICS = [toolset for toolset in Toolset if toolset is not Toolset.CORE]
"""The toolsets without the core: every tool is in exactly one of them."""
NARROWED = [
    *({toolset} for toolset in Toolset),
    *({*pair} for pair in itertools.combinations(TOPICS, 2)),
    *({*TOPICS} - {toolset} for toolset in TOPICS),
]
CALLS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "execute": [
        {"code": "exit 3"},
        {"code": "timeout"},
        {"code": "hang", "wait_seconds": 0},
        {"code": "flood 400000"},
        {"code": ""},
        {"code": "x" * 1_100_000},
        {"code": "echo", "wait_seconds": 999},
        {"code": "echo", "cwd": "/nowhere"},
    ],
    "run_command": [{"command": ["sh"], "user": "nobody"}, {"command": []}],
    "wait_job": [{"job_id": 1, "wait_seconds": 0}, {"job_id": 99}],
    "read_job": [{"job_id": 99}],
    "kill_job": [{"job_id": 99}, {"job_id": 1, "signal": "INT"}, {"job_id": 1, "signal": "x"}],
    "write_job": [{"job_id": 1, "text": "x"}, {"job_id": 3, "text": "x"}],
    "write_file": [{"path": "/tmp", "content": ""}, {"path": "a\0", "content": ""}],
    "read_file": [{"path": "/nowhere"}, {"path": "/tmp"}, {"path": "a"}],
    "list_files": [{"path": "/nowhere"}, {"path": "a"}],
    "edit_file": [{"path": "a", "old_text": "", "new_text": "b"}],
    "download_files": [{"path": "/tmp", "archive_id": "0" * 16, "offset": 1}],
    "upload_files": [{"archive": "AAAA"}],
    "install_packages": [{"packages": "numpy"}, {"packages": []}],
    "expose_port": [
        {"port": 70_000},
        *({"port": port, "wait_seconds": 0} for port in range(1, 20)),
    ],
    "set_network": [{}, {"allow": "nonsense"}, {"network": "@unknown"}, {"network": "none"}],
    "pause_environment": [{"to_disk": True}],
    "resume_environment": [{}],
    "snapshot_environment": [{"name": "-"}, *[{"name": "a"}] * 4],
    "delete_snapshot": [{"snapshot_id": UNKNOWN}, {"snapshot_id": "x"}],
    "fork_environment": [{"count": 0}, {"count": 16}],
    "keep_fork": [{}, {"environment_id": UNKNOWN}],
    "rollback_environment": [{"snapshot_id": UNKNOWN}],
    "run_code": [
        {"code": "exit 3"},
        {"code": "timeout"},
        {"code": ""},
        {"code": "die"},
        {"code": "echo", "packages": "a", "network": "none"},
        {"code": "echo", "runtime": "ruby"},
    ],
    "destroy_environment": [{"environment_id": UNKNOWN}],
    "create_environment": [
        {"runtime": "ruby"},
        {"runtime": "python"},
        {"runtime": "python"},
        {"snapshot": UNKNOWN},
        {},
    ],
}
URIS = [
    f"waggle://environments/{UNKNOWN}",
    f"waggle://environments/{UNKNOWN}/executions/1/stdout",
    "waggle://environments/{id}/executions/99/stdout",
    "waggle://environments/{id}/executions/1/stdout",
    "waggle://environments/{id}/files/nowhere",
    "waggle://environments/{id}/files/tmp",
    f"waggle://environments/{{id}}/archives/{'0' * 16}",
]


def prepare(guest: FakeGuest) -> None:
    guest.diagnosis = FAILURE


@dataclass
class Narrowed:
    """A client of a server with few toolsets, and an environment created without its tools."""

    agent: Client
    environment_id: str
    host: FakeHost


@asynccontextmanager
async def narrowed(toolsets: Collection[Toolset]) -> AsyncGenerator[Narrowed]:
    host = FakeHost(prepare=prepare)
    async with anyio.create_task_group() as group:
        services = make_services(Setup(host=host, toolsets=toolsets), group)
        environment = await services.environments.create(
            CreateRequest(RuntimeName.PYTHON), owner=LOCAL
        )
        host.only.files[f"{HOME}/a"] = FakeFile(b"text", 0o644)
        if Toolset.EXECUTION in toolsets:
            await services.execution.execute(environment.id, "echo begun\nhang", owner=LOCAL)
            await host.only.started.wait()
        async with Client(build_mcp(services)) as agent:
            yield Narrowed(agent, environment.id, host)
        await services.environments.aclose()
        group.cancel_scope.cancel()


def named(text: str) -> set[str]:
    """Return the tools that a text names."""
    return {*NAMED.findall(text)}


def said(result: CallToolResult) -> str:
    meta = {} if result.meta is None else dict(result.meta)
    return "\n".join([text_of(result), json.dumps([result.structured_content, meta])])


async def answers(made: Narrowed, tool: Tool) -> AsyncGenerator[str]:
    """Yield the answers of a tool to calls of which most are mistaken and some fail."""
    takes_id = "environment_id" in tool.input_schema["properties"]
    wrong = [{"environment_id": UNKNOWN}, {"environment_id": "x"}] if takes_id else []
    here = {"environment_id": made.environment_id} if takes_id else {}
    tried = CALLS.get(tool.name, [{}])
    good = [{**here, **extra} for extra in tried]
    for arguments in [*good, *({**tried[0], **extra} for extra in wrong)]:
        yield said(await made.agent.call_tool(tool.name, arguments))
    yield said(await made.agent.call_tool(tool.name, {"nonsense": 1}))


async def everything(made: Narrowed) -> str:
    """Return everything that a client receives: lists, results, contents and errors."""
    heard: list[str] = []
    listed = await made.agent.list_tools()
    heard.append(listed.model_dump_json())
    for tool in listed.tools:
        heard += [answer async for answer in answers(made, tool)]
    heard.append((await made.agent.list_resource_templates()).model_dump_json())
    for uri in URIS:
        try:
            content = await made.agent.read_resource(uri.format(id=made.environment_id))
            heard.append(content.model_dump_json())
        except MCPError as error:
            heard.append(f"{error.error.message} {json.dumps(error.error.data)}")
    return "\n".join(heard)


def test_every_tool_has_calls_or_needs_none() -> None:
    unneeded = {name for name in NAMES if name not in CALLS}
    assert unneeded <= {
        *TOOLS[Toolset.ENVIRONMENTS],
        "list_jobs",
        "search_files",
        "unexpose_port",
        "list_snapshots",
    }


async def test_if_everything_is_offered_answers_name_tools_of_all_sets_but_run() -> None:
    async with narrowed(ALL_TOOLSETS) as made:
        names = named(
            "\n".join(
                [
                    answer
                    for tool in (await made.agent.list_tools()).tools
                    async for answer in answers(made, tool)
                ]
            )
        )
    for toolset, tools in TOOLS.items():
        assert names.intersection(tools) or toolset is Toolset.RUN


@pytest.mark.parametrize("toolsets", NARROWED, ids=lambda toolsets: "+".join(sorted(toolsets)))
async def test_answers_name_only_offered_tools(toolsets: set[Toolset]) -> None:
    async with narrowed(toolsets) as made:
        names = named(await everything(made))
    assert names <= {name for toolset in toolsets for name in TOOLS[toolset]}


async def test_the_output_of_a_program_is_not_changed() -> None:
    async with narrowed({Toolset.EXECUTION}) as made:
        line = "Use read_file; then wait_job. Go on."
        arguments = {"environment_id": made.environment_id, "code": f"echo {line}\nexit 1"}
        result = await made.agent.call_tool("execute", arguments)
        assert data_of(result)["stdout"] == f"{line}\n"
        assert text_of(result).startswith(f"{line}\n")
        assert data_of(result)["diagnosis"]["next_step"] == (
            "Write its file. run_command works as root. Look at it again."
        )
