# SPDX-License-Identifier: Apache-2.0
"""The calls that may be large: only those of tools that take files or standard input."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.support.server import default_tools, raw, request, serving

from waggle.mcp.schema.tool import OfferedTool, takes
from waggle.mcp.tools import CARRIERS

TOOLS = {tool.name: tool for tool in default_tools()}
FILES = {
    *("archive", "code", "files", "new_text", "old_text", "stdin", "text"),
    *("content", "command"),  # except in search_files, where it is bounded
}
"""Parameters that may hold a whole file or program."""
SHORT = {
    *(
        "allow",
        "deny",
        "archive_id",
        "context",
        "cwd",
        "env",
        "environment_id",
        "exclude",
        "image",
        "mode",
        "name",
    ),
    *("network", "packages", "path", "secrets", "signal", "snapshot", "snapshot_id"),
}
"""Parameters without a bound in the schema that need at most a few kilobytes."""
OVER = 3 << 20


def texts(tool: OfferedTool) -> set[str]:
    """Return the parameters that take texts whose length the schema does not bound."""
    schema = tool.fn_metadata.arg_model.model_json_schema(by_alias=True)
    return {name for name, about in schema["properties"].items() if has_text(about)}


def has_text(about: Any) -> bool:
    if not isinstance(about, dict):
        return False
    schema = cast("dict[str, Any]", about)
    if schema.keys() & {"enum", "const", "maxLength"}:
        return False
    inner = [*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")]
    return schema.get("type") == "string" or any(map(has_text, inner))


@pytest.mark.parametrize("name", TOOLS)
def test_every_unbounded_text_is_listed_as_short_or_as_a_file(name: str) -> None:
    """A new parameter belongs in one of the two sets; one in FILES makes its tool a carrier."""
    found = texts(TOOLS[name])
    assert found <= FILES | SHORT
    assert (name in CARRIERS) is bool(found & FILES)


def test_every_listed_tool_and_parameter_exists() -> None:
    assert TOOLS.keys() >= CARRIERS
    for name in FILES | SHORT:
        assert any(takes(tool, name) for tool in TOOLS.values()), name


@pytest.mark.anyio
async def test_only_carriers_may_be_large_over_http() -> None:
    async with serving() as rig, raw(rig) as http:
        for name in TOOLS:
            arguments = {"environment_id": "none", "x": "x" * OVER}
            answer = await http.post(
                "/mcp", json=request("tools/call", {"name": name, "arguments": arguments})
            )
            refused = "only calls that carry files" in answer.text
            assert refused is (name not in CARRIERS), name
