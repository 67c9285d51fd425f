# SPDX-License-Identifier: Apache-2.0
"""Tools made from functions, with schemas that every client accepts.

Called by `waggle.mcp.tools`. Unlike the SDK, it refuses unknown parameters instead of dropping
them, except those that clients add; it does not accept `true` as a number; and it parses a string
as JSON only for parameters that are lists, objects, numbers or booleans (some clients send these as
text), never for text, where `true` or `[1]` is a valid value.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache
from types import MethodType
from typing import Any, cast, get_type_hints

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations
from pydantic import ConfigDict, create_model

from waggle.mcp.schema import Schema, documented, published, quick, terse
from waggle.mcp.sdk import X_MCP_HEADER_KEY, ArgModelBase, FuncMetadata
from waggle.structure import Bounds, Structure

ADDED_BY_CLIENTS = frozenset(
    {
        *("toolCallId", "tool_call_id", "sessionId", "session_id", "action", "chatInput"),
        *("description", "explanation", "reason", "reasoning", "thought", "_meta"),
        *("task_progress", "security_risk", "summary", "random_string", "wait_for_previous"),
        *("toolAction", "toolSummary", "waitForPreviousTools"),
    }
)
"""Names that clients and models add to the arguments; ignored unless the tool has them."""

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
SETTLES = CHANGES.model_copy(update={"idempotent_hint": True})
"""Of a tool that changes nothing more when it is called again."""
DESTROYS = SETTLES.model_copy(update={"destructive_hint": True})
RUNS = CHANGES.model_copy(update={"open_world_hint": True})
INSTALLS = SETTLES.model_copy(update={"open_world_hint": True})

_IN_HEADER = "environment_id"
_OPENING = {"array": "[", "object": "{"}
_PLAIN = (*"-0123456789", "true", "false")
_CAPITAL = frozenset({"True", "False", "TRUE", "FALSE"})
_WITHIN = Bounds(containers=20_000, commas=20_000, depth=32, outside=256 * 1024)
"""The bounds of JSON in a string: a list of names, variables or files."""
_NUMBERS = {"integer", "number", "boolean", "null"}


class _Metadata(FuncMetadata):
    """The SDK's metadata of a function, with stricter parsing of JSON inside strings.

    `openings` has the first characters of the JSON of each list or object parameter; `plain` are
    the parameters that take a number or a boolean. A null for an `optional` parameter and an empty
    text for a `blank` one are dropped: some clients send these for omitted arguments.
    """

    openings: dict[str, tuple[str, ...]]
    plain: frozenset[str]
    optional: frozenset[str]
    blank: frozenset[str]

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments under their real names, parsed where the parameter needs it."""
        named = {_real(name, data, self.openings): value for name, value in data.items()}
        return {
            name: _plain(value) if name in self.plain else _parsed(value, self.openings.get(name))
            for name, value in named.items()
            if (name in self.openings or name not in ADDED_BY_CLIENTS)
            and not (value is None and name in self.optional)
            and not (value == "" and name in self.blank)
        }


def _real(name: str, given: Collection[str], known: Collection[str]) -> str:
    """Return `environment_id` for `environmentId`, unless both are given."""
    if name in known or name in ADDED_BY_CLIENTS:
        return name
    same = [real for real in known if _letters(real) == _letters(name) and real not in given]
    return same[0] if same else name


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


class OfferedTool(Tool):
    """A tool with its documentation: the accepted parameters and the described result schema."""

    accepted: dict[str, Any]
    result_schema: dict[str, Any]


def _plain(value: object) -> object:
    """Return 5 for "5" and for 5.0, which JSON Schema treats alike; other values unchanged."""
    if isinstance(value, str):
        value = _parsed(value.lower() if value in _CAPITAL else value, _PLAIN)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parsed(value: object, openings: tuple[str, ...] | None) -> object:
    if not openings or not isinstance(value, str) or not value.lstrip().startswith(openings):
        return value
    try:
        Structure(_WITHIN).feed(value.encode())  # as untrusted as a whole message
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _kinds(schema: Schema) -> list[str]:
    variants = cast("list[Schema]", schema.get("anyOf", [schema]))
    return [str(variant.get("type")) for variant in variants]


def _needs_text(schema: Schema) -> bool:
    """Whether an empty text is refused, as for an idempotency key."""
    return "minLength" in json.dumps(schema)


def make_tool(
    method: Callable[..., Awaitable[object]],
    *,
    title: str,
    description: str,
    annotations: ToolAnnotations,
    meta: Mapping[str, Any] | None = None,
    shows_pictures: bool = False,
) -> OfferedTool:
    """Build the tool named like `method`, with the parameters and result of its signature.

    A tool that shows pictures publishes no output schema: a schema requires structured content in
    every result, and that hides pictures in common clients.
    """
    shown = {"title": title, "description": description, "annotations": annotations, "meta": meta}
    tool = _shape(cast("MethodType", method).__func__).model_copy(update={"fn": method, **shown})
    if not shows_pictures:
        return tool
    metadata = tool.fn_metadata.model_copy(update={"output_schema": None})
    return tool.model_copy(update={"fn_metadata": metadata})


@cache  # takes milliseconds, and is the same for every object with the method
def _shape(function: Callable[..., Awaitable[object]]) -> OfferedTool:
    """Build a tool from a function's signature, without `self`."""
    tool = Tool.from_function(MethodType(function, object()), structured_output=False)
    plain = tool.fn_metadata
    strict = cast(
        "type[ArgModelBase]",
        create_model(
            f"{tool.name}_arguments",
            __base__=type(
                "Strict",
                (plain.arg_model,),
                {"model_config": ConfigDict(extra="forbid", strict=True)},
            ),
        ),
    )
    schema = strict.model_json_schema(by_alias=True)
    kinds = {name: _kinds(about) for name, about in schema["properties"].items()}
    optional = frozenset(kinds) - frozenset(schema.get("required", ()))
    result = quick(_result_schema(function))
    metadata = _Metadata(
        openings={
            name: tuple(_OPENING[kind] for kind in types if kind in _OPENING)
            for name, types in kinds.items()
        },
        plain=frozenset(name for name, types in kinds.items() if _NUMBERS.issuperset(types)),
        optional=optional,
        blank=frozenset(name for name in optional if not _needs_text(schema["properties"][name])),
        arg_model=strict,
        # Results are made from models, so the SDK gets no model and does not check them again.
        output_schema=terse(result),
    )
    return OfferedTool(
        fn=tool.fn,
        name=tool.name,
        title=None,
        annotations=None,
        description=tool.description,
        parameters=published(schema),
        fn_metadata=metadata,
        is_async=tool.is_async,
        context_kwarg=tool.context_kwarg,
        accepted=documented(schema),
        result_schema=result,
    )


def _result_schema(function: Callable[..., Awaitable[object]]) -> Schema:
    """Return the schema of the model that a function's result is annotated with; empty if none."""
    returned = get_type_hints(function, include_extras=True).get("return")
    model = next(iter(getattr(returned, "__metadata__", ())), None)
    return model.model_json_schema() if model is not None else {}


def with_header(tool: OfferedTool) -> OfferedTool:
    """Return the tool so that clients of 2026-07-28 repeat its `environment_id` in a header."""
    properties = tool.parameters["properties"]
    if _IN_HEADER not in properties:
        return tool
    about = {**properties[_IN_HEADER], X_MCP_HEADER_KEY: "Environment-Id"}
    named = {**tool.parameters, "properties": {**properties, _IN_HEADER: about}}
    return tool.model_copy(update={"parameters": named})


def takes(tool: OfferedTool, name: str) -> bool:
    """Whether the tool accepts a parameter of this name, published or not."""
    return name in tool.accepted["properties"]


def parameters(tool: OfferedTool) -> dict[str, bool]:
    """Return all accepted parameters: whether one is required, by name."""
    required = tool.parameters.get("required", [])
    return {name: name in required for name in tool.accepted["properties"]}
