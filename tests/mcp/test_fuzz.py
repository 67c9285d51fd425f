# SPDX-License-Identifier: Apache-2.0
"""Fuzzed tool calls: valid and hostile arguments always give a result, never a traceback."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable, Generator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from structlog.testing import capture_logs
from tests.support.server import default_tools
from tests.support.wire import (
    FOREIGN,
    FOREIGN_SNAPSHOT,
    OWN,
    SECRET,
    TRACES,
    Ground,
    hunting_ground,
)

from waggle.mcp.errors import ERROR_META_KEY

TOOLS = tuple(tool.name for tool in default_tools())
"""The tools to test, which must be those of `tools/list` (asserted below)."""

texts = st.text(max_size=30) | st.sampled_from(
    ["a", "/tmp/a", "..", "\0", "\ud800", "-1", "null", "[1]", "{}", "a b", "x" * 500]
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def packed(name: str, kind: bytes = tarfile.REGTYPE) -> str:
    """Return a tar with one entry, as base64."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
        tar.addfile(entry)
    return base64.b64encode(out.getvalue()).decode()


LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "environment_id": st.sampled_from([OWN, OWN, FOREIGN]) | texts,
    "path": st.sampled_from(["/tmp/a", "/tmp", "a", f"../{FOREIGN}"]) | texts,
    "snapshot_id": st.sampled_from([FOREIGN_SNAPSHOT, OWN]) | texts,
    "snapshot": st.sampled_from([FOREIGN_SNAPSHOT, OWN]) | texts,
    "job_id": st.integers(-1, 3),
    "code": st.sampled_from(["echo x", "exit 3", "flood 9", "stdin"]) | texts,
    "archive": texts
    | st.sampled_from([packed("a"), packed("../a"), packed("l", tarfile.SYMTYPE), packed("/x")]),
    "idempotency_key": st.sampled_from(["k", "l"]) | texts,
}
"""Values, by parameter name, that reach deeper code than random texts."""


def from_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy of valid values, for the subset of JSON Schema that the tools use."""
    if "anyOf" in schema:
        return st.one_of([from_schema(variant) for variant in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "properties" in schema:
        return from_properties(schema)
    low = 0 if "exclusiveMinimum" in schema else schema.get("minimum")
    by_type: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "null": st.none,
        "boolean": st.booleans,
        "string": lambda: texts,
        "integer": lambda: st.integers(schema.get("minimum"), schema.get("maximum")),
        "number": lambda: st.floats(
            low,
            schema.get("maximum"),
            exclude_min="exclusiveMinimum" in schema,
            allow_nan=False,
            allow_infinity=False,
        ),
        "array": lambda: st.lists(from_schema(schema["items"]), max_size=5),
        "object": lambda: st.dictionaries(
            texts, from_schema(schema["additionalProperties"]), max_size=3
        ),
    }
    return by_type[schema["type"]]()


def from_properties(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    parts = {name: from_schema(about) for name, about in schema["properties"].items()}
    parts |= {name: likely for name, likely in LIKELY.items() if name in parts}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name in required},
        optional={name: part for name, part in parts.items() if name not in required},
    )


def hostile(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of arguments that may be missing, added, or of a wrong type."""
    names = st.sampled_from([*schema["properties"], "more"]) | texts
    return st.tuples(
        from_properties(schema), st.dictionaries(names, anything, max_size=3), st.sets(names)
    ).map(lambda t: {k: v for k, v in {**t[0], **t[1]}.items() if k not in t[2]})


@pytest.fixture
def ground() -> Generator[Ground]:
    """Yield a separate server with an environment of the caller and one of another owner."""
    with hunting_ground() as made:
        yield made


def valid(schema: dict[str, Any], value: object) -> bool:
    return cast("Any", Draft202012Validator(schema)).is_valid(value)


def check(tool: dict[str, Any], arguments: dict[str, Any], result: dict[str, Any]) -> None:
    """Assert that a result is well formed and leaks nothing."""
    text, echoed = json.dumps(result), json.dumps(arguments)
    assert not [trace for trace in TRACES if trace in text and trace not in echoed]
    assert SECRET not in text
    structured, schema = result.get("structuredContent"), tool.get("outputSchema")
    assert structured is None or schema is None or valid(schema, structured)
    if not result["isError"]:
        picture = any(block["type"] == "image" for block in result["content"])
        assert picture == (structured is None), "with a picture the words are text alone"
        return
    error = result["_meta"][ERROR_META_KEY]
    assert set(error) == {"code", "message", "hint", "retryable"}
    assert error["code"] != "internal"
    assert 0 < len(error["message"]) < 1_000
    error["message"].encode()


@pytest.mark.parametrize("name", TOOLS)
def test_any_arguments_give_a_result(name: str, ground: Ground) -> None:
    tools = ground.wire.tools()
    assert set(tools) == set(TOOLS)
    tool = tools[name]
    fitting, broken = from_properties(tool["inputSchema"]), hostile(tool["inputSchema"])

    @settings(max_examples=30, deadline=None)
    @given(fitting | broken)
    def whatever(arguments: dict[str, Any]) -> None:
        check(tool, arguments, ground.wire.call(name, arguments))

    with capture_logs() as logs:
        whatever()
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert set(ground.wire.tools()) == set(TOOLS)
    ground.assert_untouched()
