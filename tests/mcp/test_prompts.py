# SPDX-License-Identifier: Apache-2.0
"""Prompts as clients see them, in both eras; pasted text is kept inside marks."""

from __future__ import annotations

import logging
import re

import pytest
from mcp import Client, MCPError
from mcp_types import INVALID_PARAMS, GetPromptResult, TextContent
from tests.support.server import ERAS, Setup, mcp_server

from waggle.domain.toolset import ALL_TOOLSETS, Toolset
from waggle.mcp.prompts import HINTS, MOST_TEXT, PROMPTS

pytestmark = pytest.mark.anyio
ARGUMENTS = {
    "run-code": {"task": "count words", "runtime": "node"},
    "debug-failure": {"failure": "KeyError: 'x'", "code": "print({}['x'])"},
    "analyse-data": {"question": "which month?", "data": "a,b\n1,2"},
    "try-ways": {"task": "fit a model", "ways": "trees, lines"},
}
TAKES = "run-code takes: task (required), runtime."


def said(result: GetPromptResult) -> str:
    (message,) = result.messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


@pytest.mark.parametrize("era", ERAS)
async def test_prompts_are_listed_and_returned_with_their_arguments(era: str) -> None:
    async with mcp_server() as server, Client(server, mode=era) as client:
        listed = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in listed] == [*PROMPTS]
        for prompt in listed:
            assert prompt.description
            assert all(argument.description for argument in prompt.arguments or [])
            text = said(await client.get_prompt(prompt.name, ARGUMENTS[prompt.name]))
            for name, value in ARGUMENTS[prompt.name].items():
                assert value in text
                assert name == "runtime" or f"<{name}>\n{value}\n</{name}>" in text


async def test_prompts_name_only_tools_that_exist() -> None:
    async with mcp_server() as server, Client(server) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        for name, arguments in ARGUMENTS.items():
            text = said(await client.get_prompt(name, arguments))
            named = set(re.findall(r"\b[a-z]+_[a-z_]+\b", text)) - {"environment_id", "exit_code"}
            assert named - tools == set()
            hinted = HINTS.get(name, ("", frozenset[str]()))[1]
            assert {*named, "execute"} == PROMPTS[name][1] | hinted
            assert "execute" in text


@pytest.mark.parametrize(
    "left_out, names",
    [
        ({Toolset.PORTS, Toolset.RUN}, [*PROMPTS]),
        ({Toolset.PACKAGES}, ["debug-failure", "try-ways"]),
        ({Toolset.SNAPSHOTS}, ["run-code", "debug-failure", "analyse-data"]),
        ({Toolset.FILES}, ["try-ways"]),
        ({Toolset.EXECUTION}, []),
        ({Toolset.ENVIRONMENTS}, []),
    ],
)
async def test_a_prompt_is_offered_only_if_its_tools_are(
    left_out: set[Toolset], names: list[str]
) -> None:
    setup = Setup(toolsets=ALL_TOOLSETS - left_out - {Toolset.CORE})
    async with mcp_server(setup) as server, Client(server) as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == names
        for name in {*PROMPTS} - {*names}:
            with pytest.raises(MCPError) as refused:
                await client.get_prompt(name, ARGUMENTS[name])
            known = f"The prompts are: {', '.join(names)}." if names else "This server has none."
            assert refused.value.error.message == f"There is no prompt {name!r}. {known}"
        for name in names:
            text = said(await client.get_prompt(name, ARGUMENTS[name]))
            hinted = name in HINTS and Toolset.SNAPSHOTS not in left_out
            assert ("snapshot_environment" in text) is hinted


@pytest.mark.parametrize(
    "name, arguments, message, hint",
    [
        ("nope\n", {}, "There is no prompt 'nope\\n'.", f"The prompts are: {', '.join(PROMPTS)}."),
        ("run-code", {}, "Argument 'task' is missing.", TAKES),
        (
            "run-code",
            {"a\0": ""},
            "Argument 'task' is missing; there is no argument 'a\ufffd'.",
            TAKES,
        ),
        (
            "run-code",
            {"task": "x", "runtime": "ruby"},
            "There is no runtime 'ruby'.",
            "Use one of: python, node, shell, data.",
        ),
        (
            "debug-failure",
            {"failure": "x" * (MOST_TEXT + 1)},
            "failure is longer than 20000 characters.",
            "Give the part that matters, or have the agent read it from a file.",
        ),
    ],
)
@pytest.mark.parametrize("era", ERAS)
async def test_a_mistaken_request_is_refused_with_a_hint(
    era: str,
    name: str,
    arguments: dict[str, str],
    message: str,
    hint: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with mcp_server() as server, Client(server, mode=era) as client:
        with pytest.raises(MCPError) as refused:
            await client.get_prompt(name, arguments)
    error = refused.value.error
    assert (error.code, error.message) == (INVALID_PARAMS, f"{message} {hint}")
    assert (error.data["waggle/error"]["message"], error.data["waggle/error"]["hint"]) == (
        message,
        hint,
    )
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
