# SPDX-License-Identifier: Apache-2.0
"""Toolsets: only offered tools are listed, called and named in instructions."""

from __future__ import annotations

import re

import pytest
from mcp import Client
from tests.support.server import Setup, default_tools, error_of, mcp_server

from waggle.domain.toolset import ALL_TOOLS, TOOLS, Offer, Toolset
from waggle.mcp.surfaces import instructions, offered_tools

TOPICS = [toolset for toolset in Toolset if toolset is not Toolset.CORE]
ALL = [tool.name for tool in default_tools()]


def offered(*toolsets: Toolset) -> list[str]:
    return [tool.name for tool in offered_tools(default_tools(), Offer(frozenset(toolsets)))]


@pytest.mark.anyio
async def test_tools_not_offered_are_neither_listed_nor_called() -> None:
    toolsets = {Toolset.RUN, Toolset.PORTS}
    async with mcp_server(Setup(toolsets=toolsets)) as server, Client(server) as agent:
        names = {tool.name for tool in (await agent.list_tools()).tools}
        assert names == {"run_code", "expose_port", "unexpose_port"}
        refused = error_of(await agent.call_tool("execute", {"code": "1"}))
        assert refused["code"] == "unknown_tool"
        assert "execute" not in refused["hint"]


@pytest.mark.anyio
async def test_an_unknown_tool_is_refused_with_only_its_equivalent() -> None:
    async with mcp_server(Setup(toolsets={Toolset.CORE})) as server, Client(server) as agent:
        refused = error_of(await agent.call_tool("Bash", {"command": "ls"}))
        assert refused["message"] == "There is no tool 'Bash'."
        assert refused["hint"] == 'Call execute with language "shell".'
        refused = error_of(await agent.call_tool("weather", {}))
        assert refused["hint"].startswith("The tools are: execute, write_file, ")


def test_every_tool_is_in_exactly_one_toolset() -> None:
    assert offered(*Toolset) == offered(*TOPICS) == ALL == [*ALL_TOOLS]
    assert sorted(name for toolset in TOPICS for name in offered(toolset)) == sorted(ALL)
    assert all({*offered(toolset)} == {*TOOLS[toolset]} for toolset in Toolset)


@pytest.mark.parametrize(
    "toolsets",
    [*({toolset} for toolset in Toolset), *({*TOPICS} - {toolset} for toolset in TOPICS)],
    ids=lambda toolsets: "+".join(sorted(toolsets)),
)
def test_the_instructions_name_all_offered_tools_and_no_others(toolsets: set[Toolset]) -> None:
    names = offered(*toolsets)
    text = instructions(names)
    named = {name for name in ALL if re.search(rf"\b{name}\b", text)}
    assert named == set(names)


@pytest.mark.parametrize("pauses", [False, True])
def test_the_instructions_begin_with_their_use_and_are_short(pauses: bool) -> None:
    text = instructions(ALL, pauses_when_idle=pauses)
    assert text.startswith("Use waggle whenever ")
    assert len(text) < 2_048
    assert ("paused to disk" in text) is pauses
    assert len(instructions(offered(Toolset.CORE))) < 1_400
