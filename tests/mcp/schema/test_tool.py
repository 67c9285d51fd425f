# SPDX-License-Identifier: Apache-2.0
"""Arguments as clients and models give them: accepted, ignored, or refused with advice."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field
from tests.support.server import Setup, client, created, data_of, default_tools, error_of, serving

from waggle.domain.toolset import Toolset
from waggle.mcp.context import Ctx
from waggle.mcp.schema import STRINGS, listed_as, unlisted
from waggle.mcp.schema.tool import ADDED_BY_CLIENTS, make_tool

pytestmark = pytest.mark.anyio


class Answer(BaseModel):
    """The result of the tool."""

    word: str = Field(description="One.")
    more: str | None = None
    inner: list[Mapping[str, int]] = Field(default_factory=list[Mapping[str, int]])


class Tools:
    """The owner of a tool with every kind of parameter."""

    async def tool(
        self,
        ctx: Ctx,
        *,
        word: Annotated[str, Field(min_length=1, description="One.")],
        count: Annotated[int | None, Field(ge=0, description="How many.")] = None,
        ratio: Annotated[float | None, Field(gt=0)] = 1.5,
        loud: bool = False,
        items: Annotated[str | list[str], Field(json_schema_extra=STRINGS)] = "",
        pairs: Annotated[
            list[str] | dict[str, Any] | None, Field(json_schema_extra=STRINGS)
        ] = None,
        program: Annotated[
            str | list[str] | None, Field(json_schema_extra=listed_as(type="string"))
        ] = None,
        key: Annotated[str | None, Field(json_schema_extra=unlisted())] = None,
    ) -> Annotated[CallToolResult, Answer]:
        """Answer."""
        return CallToolResult(content=[TextContent(type="text", text=word)])


TOOL = make_tool(Tools().tool, title="T", description="D", annotations=ToolAnnotations())


async def test_the_published_input_schema_is_plain() -> None:
    strings = {"type": "array", "items": {"type": "string"}}
    assert TOOL.parameters == {
        "type": "object",
        "properties": {
            "word": {"type": "string", "minLength": 1, "description": "One."},
            "count": {"type": "integer", "minimum": 0, "description": "How many."},
            "ratio": {"type": "number", "default": 1.5},
            "loud": {"type": "boolean"},
            "items": strings,
            "pairs": strings,
            "program": {"type": "string"},
        },
        "required": ["word"],
    }
    assert {**TOOL.accepted["properties"]}.keys() - TOOL.parameters["properties"].keys() == {"key"}


async def test_the_published_output_schema_has_no_descriptions() -> None:
    assert TOOL.output_schema == {
        "type": "object",
        "properties": {
            "word": {"type": "string"},
            "more": {"type": "string"},
            "inner": {
                "type": "array",
                "items": {"type": "object", "additionalProperties": {"type": "integer"}},
            },
        },
        "required": ["word"],
    }
    assert TOOL.result_schema["properties"]["word"]["description"] == "One."


def taken(**given: object) -> dict[str, Any]:
    found = TOOL.fn_metadata.validate_arguments({"word": "a", **given})
    return {name: found[name] for name in found if name in given or name == "pairs"}


async def test_more_forms_are_accepted_than_published() -> None:
    assert taken(items="a b")["items"] == "a b"
    assert taken(items='["a"]')["items"] == ["a"]
    assert taken(pairs={"a": 1})["pairs"] == {"a": 1}
    assert taken(pairs='{"a": 1}')["pairs"] == {"a": 1}
    assert taken(program=["ls", "-l"])["program"] == ["ls", "-l"]
    assert taken(program="[ -e a ]")["program"] == "[ -e a ]"
    assert taken(count="5", loud="true", ratio="2") == {
        "count": 5,
        "loud": True,
        "ratio": 2,
        "pairs": None,
    }
    assert taken(count=None)["count"] is None


async def test_additions_of_clients_are_ignored_and_other_spellings_accepted() -> None:
    added = dict.fromkeys(ADDED_BY_CLIENTS, "x")
    async with serving(Setup()) as rig, client(rig) as agent:
        environment = await created(agent)
        assert data_of(await agent.call_tool("list_environments", added))["count"] == 1
        run = {"environmentId": environment, "code": "echo hi", "WaitSeconds": 5, **added}
        assert data_of(await agent.call_tool("execute", run))["stdout"] == "hi\n"
        listed = await agent.call_tool(
            "list_files", {"environment-id": environment, "path": "/tmp"}
        )
        assert not listed.is_error


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("timout_seconds", " (did you mean timeout_seconds?)"),
        ("enviroment_id", " (did you mean environment_id?)"),
        ("idempotence_key", " (did you mean idempotency_key?)"),
        ("timeoutSecond", " (did you mean timeout_seconds?)"),
        ("command", " (did you mean code?)"),
        ("sandbox_id", " (did you mean environment_id?)"),
        ("cmd", " (did you mean code?)"),
        ("timeout", " (did you mean timeout_seconds?)"),
        ("workdir", " (did you mean cwd?)"),
        ("run_in_background", " (did you mean background?)"),
        ("query", " (did you mean code?)"),
        ("run_id", "."),
        ("xyz", "."),
    ],
)
async def test_a_misspelt_parameter_is_refused_with_a_suggestion(wrong: str, meant: str) -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        given = {"environment_id": await created(agent), "code": "echo hi", wrong: "x"}
        refused = error_of(await agent.call_tool("execute", given))
        assert refused["code"] == "invalid_argument"
        assert refused["message"].startswith(f"There is no parameter '{wrong}'{meant}")
        assert refused["hint"].startswith("execute takes: code (required), environment_id, ")


@pytest.mark.parametrize("toolset", [None, *Toolset])
async def test_every_tool_names_an_unknown_parameter_and_lists_its_own(
    toolset: Toolset | None,
) -> None:
    """Also to a client that has few tools, whose advice names no other."""
    setup = Setup() if toolset is None else Setup(toolsets=[toolset])
    async with serving(setup) as rig, client(rig) as agent:
        for tool in (await agent.list_tools()).tools:
            refused = error_of(await agent.call_tool(tool.name, {"zzz": 1}))
            assert "here is no parameter 'zzz'." in refused["message"]
            assert refused["hint"].startswith(f"{tool.name} takes: ")
            for name in tool.input_schema["properties"]:
                assert re.search(rf"\b{name}\b", refused["hint"])


async def test_a_parameter_given_in_two_spellings_is_refused() -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        twice = {"environment_id": "a", "environmentId": "b", "code": ""}
        refused = error_of(await agent.call_tool("execute", twice))
        assert "There is no parameter 'environmentId'" in refused["message"]


@pytest.mark.parametrize("nothing", [None, ""])
async def test_an_optional_parameter_may_be_null_or_empty(nothing: object) -> None:
    """OpenAI's strict mode sends null for omitted parameters; other clients send an empty text."""
    accepted = [name for name in TOOL.accepted["properties"] if name != "word"]
    found = TOOL.fn_metadata.validate_arguments(
        TOOL.fn_metadata.pre_parse_json({"word": "a", **dict.fromkeys(accepted, nothing)})
    )
    assert found == TOOL.fn_metadata.validate_arguments({"word": "a"})
    async with serving(Setup()) as rig, client(rig) as agent:
        this = {"environment_id": await created(agent)}
        for tool in default_tools():
            if tool.name in {"execute", "write_file", "read_file", "list_files", "read_job"}:
                given = {"code": "echo a", "path": "a", "content": "x", "job_id": 1, **this}
                empty = dict.fromkeys(tool.accepted["properties"], nothing)
                empty.pop("idempotency_key", None)  # an empty key is refused
                arguments = {name: given.get(name, empty[name]) for name in empty}
                if tool.name == "list_files":
                    arguments["path"] = nothing
                assert not (await agent.call_tool(tool.name, arguments)).is_error, tool.name


@pytest.mark.parametrize(
    "tool, wrong, words",
    [
        ("execute", {"code": "x", "env": [{"name": "A"}]}, "Parameter 'env"),
        ("install_packages", {"packages": {"numpy": "2"}}, "Parameter 'packages'"),
        ("create_environment", {"files": ["a"]}, "Parameter 'files"),
    ],
)
async def test_a_refusal_contains_no_words_of_the_validation_library(
    tool: str, wrong: dict[str, Any], words: str
) -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        message = error_of(await agent.call_tool(tool, wrong))["message"]
        assert words in message
        assert "[" not in message
        assert "str" not in message.replace("string", "")


@pytest.mark.parametrize("env", ["A=1", "B=2\nA=1\n", '{"A": 1}', {"A": 1}, ["A=1"], '["A=1"]'])
async def test_variables_are_accepted_in_every_form(env: object) -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        given = {"environment_id": await created(agent), "code": "env A", "env": env}
        assert data_of(await agent.call_tool("execute", given))["stdout"] == "1\n"


async def test_a_json_file_that_a_client_parsed_is_written_as_text() -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        content = {"name": "é", "files": ["a"]}
        for number, file in enumerate((content, [content])):
            given = {"path": f"{number}.json", "content": file}
            made = data_of(await agent.call_tool("create_environment", {"files": [given]}))
            this = {"environment_id": made["environment_id"], "path": given["path"]}
            for _ in range(2):
                read = data_of(await agent.call_tool("read_file", this))["content"]
                assert json.loads(read) == file
                assert read.startswith(("{\n", "[\n"))
                assert not (await agent.call_tool("write_file", {**this, **given})).is_error


async def test_an_id_may_stand_in_quotes_and_content_in_a_data_url() -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        quoted = {"environment_id": f"`{await created(agent)}`"}
        content = {"path": "a", "content": "data:text/plain;base64,eA==", "encoding": "base64"}
        assert not (await agent.call_tool("write_file", {**quoted, **content})).is_error
        assert (
            data_of(await agent.call_tool("read_file", {**quoted, "path": "a"}))["content"] == "x"
        )
