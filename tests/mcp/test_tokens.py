# SPDX-License-Identifier: Apache-2.0
"""The cost of the tools in a prompt, and whether the APIs of models accept their schemas.

A tool counts as clients show it to a model: compact JSON of its name, description and input schema,
counted separately in tokens of o200k_base, without and with its output schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from tests.support.server import default_tools
from tests.support.tokens import compact, tokens

from waggle.domain.toolset import Offer, Toolset
from waggle.mcp.schema.tool import OfferedTool
from waggle.mcp.surfaces import offered_tools

CORE = Offer(frozenset({Toolset.CORE}))
FULL = Offer()
GEMINI = {
    *("type", "format", "enum", "description", "items", "properties", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "default"),
}
"""The schema keywords of Gemini's function declarations, without `anyOf`, which is not needed."""


def tools(offer: Offer) -> list[OfferedTool]:
    return offered_tools(default_tools(), offer)


def cost(offered: Sequence[OfferedTool], *, output: bool) -> int:
    return sum(
        tokens(
            compact(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.parameters,
                    **({"output_schema": tool.output_schema} if output else {}),
                }
            )
        )
        for tool in offered
    )


def test_a_known_text_has_the_token_count_of_o200k() -> None:
    assert tokens("hello world, tiktoken is great!") == 9


@pytest.mark.parametrize(
    "offer, inputs, all_of_it", [(CORE, 1_650, 3_000), (FULL, 5_000, 9_000)], ids=["core", "full"]
)
def test_the_tools_stay_within_a_token_limit(offer: Offer, inputs: int, all_of_it: int) -> None:
    offered = tools(offer)
    assert cost(offered, output=False) <= inputs
    assert cost(offered, output=True) <= all_of_it


def parts(schema: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a schema and its inner schemas with their places."""
    yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{place}.{name}")
    if "items" in schema:
        yield from parts(schema["items"], f"{place}[]")


@pytest.mark.parametrize("tool", tools(FULL), ids=lambda tool: tool.name)
def test_input_schemas_have_no_keyword_that_an_api_refuses(tool: OfferedTool) -> None:
    assert tool.parameters["properties"]
    for place, schema in parts(tool.parameters, tool.name):
        assert not schema.keys() - GEMINI, place
        assert isinstance(schema["type"], str), place
        assert schema["type"] != "object" or schema["properties"], place
        assert schema["type"] != "array" or schema["items"], place
        assert set(schema.get("required", [])) <= schema.get("properties", {}).keys(), place


@pytest.mark.parametrize("tool", tools(FULL), ids=lambda tool: tool.name)
def test_output_schemas_are_short(tool: OfferedTool) -> None:
    assert not {"title", "description", "$ref", "$defs"} & {
        word for _, schema in parts(tool.output_schema or {}, tool.name) for word in schema
    }


def test_who_creates_an_environment_reads_what_needs_snapshots() -> None:
    """A pause in memory does not: every hypervisor has it."""
    (create,) = (tool for tool in tools(CORE) if tool.name == "create_environment")
    said = create.parameters["properties"]["snapshots"]["description"]
    assert said == "For forks, snapshots and pauses to disk."
