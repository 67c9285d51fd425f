# SPDX-License-Identifier: Apache-2.0
"""Arguments as clients and models give them: understood, ignored, or refused with advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field
from tests.support.server import Setup, client, created, data_of, error_of, serving

from waggle.mcp.arguments import ADDED_BY_CLIENTS, make_tool
from waggle.mcp.context import Ctx
from waggle.mcp.input_schemas import STRINGS, listed_as, unlisted

pytestmark = pytest.mark.anyio


class Answer(BaseModel):
    """What the tool says."""

    word: str = Field(description="One.")
    more: str | None = None
    inner: list[Mapping[str, int]] = Field(default_factory=list[Mapping[str, int]])


class Tools:
    """A tool with each kind of parameter."""

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


async def test_what_is_published_is_plain() -> None:
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


async def test_results_are_published_without_words() -> None:
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
    assert TOOL.told["properties"]["word"]["description"] == "One."


def taken(**given: object) -> dict[str, Any]:
    found = TOOL.fn_metadata.validate_arguments({"word": "a", **given})
    return {name: found[name] for name in found if name in given or name == "pairs"}


async def test_more_is_accepted_than_is_published() -> None:
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


async def test_what_clients_add_is_ignored_and_other_spellings_are_understood() -> None:
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
        ("xyz", "."),
    ],
)
async def test_a_misspelt_parameter_is_refused_with_the_one_that_was_meant(
    wrong: str, meant: str
) -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        given = {"environment_id": await created(agent), "code": "echo hi", wrong: "x"}
        refused = error_of(await agent.call_tool("execute", given))
        assert refused["code"] == "invalid_argument"
        assert refused["message"].startswith(f"There is no parameter '{wrong}'{meant}")
        assert refused["hint"].startswith("execute takes: code (required), environment_id, ")


async def test_a_parameter_that_is_given_twice_by_other_spellings_is_refused() -> None:
    async with serving(Setup()) as rig, client(rig) as agent:
        twice = {"environment_id": "a", "environmentId": "b", "code": ""}
        refused = error_of(await agent.call_tool("execute", twice))
        assert "There is no parameter 'environmentId'" in refused["message"]
