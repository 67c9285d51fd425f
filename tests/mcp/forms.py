# SPDX-License-Identifier: Apache-2.0
"""Whether the text and the structured content of a result carry the same facts. Used by tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ResourceLink
from tests.support.server import default_tools as tools
from tests.support.server import text_of

NAMES = {tool.name for tool in tools()}
UNTOLD = {"code", "count", "kind", "encoding"}
"""Fields that only programs need, and the number of items of a list."""
TRUE = {"is_dir": "/", "is_link": "@", "listening": " is at ", "was_exposed": " is closed"}
TRUE["closed"] = ", which is closed now"
SIZES = {
    *("memory_bytes", "disk_bytes", "memory_bytes_used", "disk_bytes_used", "size_bytes"),
    *("memory_available_bytes", "total_bytes", "used_bytes"),
}


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of a result with their names."""
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield from leaves(inner, key)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from leaves(inner, name)
    else:
        yield name, value


def words(name: str, value: object) -> str:
    """Return a value as it is written in texts."""
    if value is True:
        return TRUE[name]
    if name == "status" and value == "exited":
        return "exit"
    if name == "duration_ms":
        return f"{float(str(value)) / 1000:.1f} s"
    if name in SIZES:
        size = int(str(value))
        return f"{size / 1e6:.1f} MB" if name == "size_bytes" else f"{size >> 20} MiB"
    return str(value)


def check(arguments: Mapping[str, Any], result: CallToolResult) -> None:
    """Assert that neither form of a result has a fact that the other lacks."""
    data = result.structured_content
    assert data, "nothing at all is a result that says nothing"
    links = [block.uri for block in result.content if isinstance(block, ResourceLink)]
    blobs = [
        f"{block.resource.uri}\n{block.resource.blob}"
        for block in result.content
        if isinstance(block, EmbeddedResource) and isinstance(block.resource, BlobResourceContents)
    ]
    text = "\n".join([text_of(result), *links, *blobs])
    pairs = list(leaves(data))
    for name, value in pairs:
        assert value or name == "exit_code", name
        if name in UNTOLD:
            continue
        for line in words(name, value).strip().splitlines():
            assert line in text, (name, line, text)
    said = " ".join([words(*pair) for pair in pairs] + [json.dumps(data), json.dumps(arguments)])
    for number in re.findall(r"\d+", text_of(result)):
        assert number in said or number == "0", (number, text, data)
    for line in text_of(result).splitlines():
        if any(re.search(rf"\b{tool}\b", line) for tool in NAMES):
            assert any(line in str(value) or str(value) in line for _, value in pairs if value), (
                line
            )
