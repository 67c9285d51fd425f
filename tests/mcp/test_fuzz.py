# SPDX-License-Identifier: Apache-2.0
"""Arguments made from each tool's published schema, and worse: always a result, never a trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any, cast

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from structlog.testing import capture_logs
from tests.support.fakes import FakeFile
from tests.support.server import MODERN, Setup, default_tools, request, serving

from waggle.mcp.errors import ERROR_META_KEY

TOOLS = tuple(tool.name for tool in default_tools())
ENVIRONMENT = "00000000-0000-4000-8000-000000000001"
TRACES = ("Traceback", 'File "', "pydantic", "site-packages", "src/waggle")

texts = st.text(max_size=30) | st.sampled_from(
    ["a", "/tmp/a", "..", "\0", "\ud800", "-1", "null", "[1]", "{}", "a b", "x" * 500]
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def from_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit the subset of JSON Schema that the tools use."""
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
    if "environment_id" in parts:
        parts["environment_id"] = st.just(ENVIRONMENT) | texts
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name in required},
        optional={name: part for name, part in parts.items() if name not in required},
    )


def hostile(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments in which anything may be missing, added, or of any kind."""
    names = st.sampled_from([*schema["properties"], "more"]) | texts
    return st.tuples(
        from_properties(schema), st.dictionaries(names, anything, max_size=3), st.sets(names)
    ).map(lambda t: {k: v for k, v in {**t[0], **t[1]}.items() if k not in t[2]})


class Wire:
    """Calls tools by raw HTTP, as no well-behaved client could."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=20)

    def rpc(self, method: str, params: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": method,
            **({} if name is None else {"Mcp-Name": name}),
        }
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = json.dumps(request(method, {**params, "_meta": meta}))
        answer = self._http.post("/mcp", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.json(), answer.text
        return answer.json()["result"]

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.rpc("tools/call", {"name": name, "arguments": arguments}, name)

    def tool(self, name: str) -> dict[str, Any]:
        return next(t for t in self.rpc("tools/list", {})["tools"] if t["name"] == name)

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def wire() -> Generator[Wire]:
    """A server of its own, in another thread, with one environment in which there is a file."""
    server = serving(Setup(max_environments=5))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server) as rig:
        connected = Wire(rig.url)
        made = connected.call("create_environment", {"runtime": "python"})
        assert made["structuredContent"]["environment_id"] == ENVIRONMENT
        rig.host.only.files["/tmp/a"] = FakeFile("a€\0".encode(), 0o644)
        yield connected
        connected.close()


def valid(schema: dict[str, Any], value: object) -> bool:
    return cast("Any", Draft202012Validator(schema)).is_valid(value)


def check(tool: dict[str, Any], arguments: dict[str, Any], result: dict[str, Any]) -> None:
    """Whatever was sent, this is what may come back."""
    text, echoed = json.dumps(result), json.dumps(arguments)
    assert not [trace for trace in TRACES if trace in text and trace not in echoed]
    structured = result.get("structuredContent")
    assert structured is None or valid(tool["outputSchema"], structured)
    if not result["isError"]:
        assert structured is not None
        return
    error = result["_meta"][ERROR_META_KEY]
    assert set(error) == {"code", "message", "hint", "retryable"}
    assert error["code"] != "internal"
    assert 0 < len(error["message"]) < 1_000
    error["message"].encode()


@pytest.mark.parametrize("name", TOOLS)
def test_whatever_is_sent_a_result_comes_back(name: str, wire: Wire) -> None:
    tool = wire.tool(name)
    fitting, broken = from_properties(tool["inputSchema"]), hostile(tool["inputSchema"])

    @settings(max_examples=40, deadline=None)
    @given(fitting | broken)
    def whatever(arguments: dict[str, Any]) -> None:
        check(tool, arguments, wire.call(name, arguments))

    with capture_logs() as logs:
        whatever()
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert len(wire.rpc("tools/list", {})["tools"]) == len(TOOLS)
