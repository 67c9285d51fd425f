# SPDX-License-Identifier: Apache-2.0
"""Turn a function into a tool with schemas that every client takes.

Called by `waggle.mcp.tools`. On top of the SDK: unknown parameters are refused instead of dropped,
but for those that clients add by themselves; `true` is no number; and a string is parsed as JSON
only for parameters that are lists, objects, numbers or booleans (some clients send these as text),
never for text, where `true` or `[1]` is a perfectly good value.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache
from types import MethodType
from typing import Any, cast

from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.inbound import X_MCP_HEADER_KEY
from mcp_types import ToolAnnotations
from pydantic import ConfigDict, create_model

from waggle.domain.toolset import Offer
from waggle.jsonrpc import Bounds, Structure
from waggle.mcp.schema.outputs import Schema, documented, published, quick, terse

ADDED_BY_CLIENTS = frozenset(
    {
        *("toolCallId", "tool_call_id", "sessionId", "session_id", "action", "chatInput"),
        *("description", "explanation", "reason", "reasoning", "thought", "_meta"),
        *("task_progress", "security_risk", "summary", "random_string", "wait_for_previous"),
        *("toolAction", "toolSummary", "waitForPreviousTools"),
    }
)
"""What clients and habits of models put beside the arguments; ignored where it is none of them."""

_IN_HEADER = "environment_id"
_OPENING = {"array": "[", "object": "{"}
_PLAIN = (*"-0123456789", "true", "false")
_CAPITAL = frozenset({"True", "False", "TRUE", "FALSE"})
_WITHIN = Bounds(containers=20_000, commas=20_000, depth=32, outside=256 * 1024)
"""Of JSON in a string: a list of names, variables or files."""
_NUMBERS = {"integer", "number", "boolean", "null"}


class _Metadata(FuncMetadata):
    """The SDK's metadata of a function, with a narrower reading of JSON inside strings.

    `openings` says, for each parameter that is a list or an object, how its JSON begins; `plain`
    are those that take a number or a boolean; `optional` may be left out, and are when a client
    sends null, or `blank` when it sends an empty text, as some do for each that a model did not
    give.
    """

    openings: dict[str, tuple[str, ...]]
    plain: frozenset[str]
    optional: frozenset[str]
    blank: frozenset[str]

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Parse strings that hold the list or object that their parameter asks for."""
        named = {_real(name, data, self.openings): value for name, value in data.items()}
        return {
            name: _plain(value) if name in self.plain else _parsed(value, self.openings.get(name))
            for name, value in named.items()
            if (name in self.openings or name not in ADDED_BY_CLIENTS)
            and not (value is None and name in self.optional)
            and not (value == "" and name in self.blank)
        }


def _real(name: str, given: Collection[str], known: Collection[str]) -> str:
    """`environment_id` for `environmentId`, unless that is there, too."""
    if name in known or name in ADDED_BY_CLIENTS:
        return name
    same = [each for each in known if _letters(each) == _letters(name) and each not in given]
    return same[0] if same else name


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


class OfferedTool(Tool):
    """A tool, and what documents say of it: all that is accepted, and results with their words."""

    accepted: dict[str, Any]
    told: dict[str, Any]


def _plain(value: object) -> object:
    """5 for "5", and for 5.0, which is the same to JSON Schema; what is neither stays."""
    if isinstance(value, str):
        value = _parsed(value.lower() if value in _CAPITAL else value, _PLAIN)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parsed(value: object, openings: tuple[str, ...] | None) -> object:
    if not openings or not isinstance(value, str) or not value.lstrip().startswith(openings):
        return value
    try:
        Structure(_WITHIN).feed(value.encode())  # as hostile as a whole message
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _kinds(schema: Schema) -> list[str]:
    variants = cast("list[Schema]", schema.get("anyOf", [schema]))
    return [str(variant.get("type")) for variant in variants]


def _needs_text(schema: Schema) -> bool:
    """Whether an empty text is refused, as of a key."""
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

    One that shows pictures publishes no output schema: with one, every result needs structured
    content, which hides pictures in common clients.
    """
    told = {"title": title, "description": description, "annotations": annotations, "meta": meta}
    tool = _shape(cast("MethodType", method).__func__).model_copy(update={"fn": method, **told})
    if not shows_pictures:
        return tool
    metadata = tool.fn_metadata.model_copy(update={"output_schema": None})
    return tool.model_copy(update={"fn_metadata": metadata})


@cache  # takes milliseconds, and says the same of every object that has the method
def _shape(function: Callable[..., Awaitable[object]]) -> OfferedTool:
    """What a tool is by its signature alone: the function's without `self`."""
    tool = Tool.from_function(MethodType(function, object()))
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
    told = quick(plain.output_schema or {})
    metadata = _Metadata(
        openings={
            name: tuple(_OPENING[kind] for kind in each if kind in _OPENING)
            for name, each in kinds.items()
        },
        plain=frozenset(name for name, each in kinds.items() if _NUMBERS.issuperset(each)),
        optional=optional,
        blank=frozenset(name for name in optional if not _needs_text(schema["properties"][name])),
        arg_model=strict,
        # Without a model the SDK does not check results again, which are made from models here.
        output_schema=terse(told),
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
        told=told,
    )


def described(tool: OfferedTool, offer: Offer) -> OfferedTool:
    """The same tool, whose words name no tool that clients cannot call."""
    return tool.model_copy(
        update={
            "description": offer.advice(tool.description),
            "parameters": _heeding(tool.parameters, offer),
        }
    )


def with_header(tool: OfferedTool) -> OfferedTool:
    """The same tool, of which clients of 2026-07-28 repeat `environment_id` in a header."""
    properties = tool.parameters["properties"]
    if _IN_HEADER not in properties:
        return tool
    about = {**properties[_IN_HEADER], X_MCP_HEADER_KEY: "Environment-Id"}
    named = {**tool.parameters, "properties": {**properties, _IN_HEADER: about}}
    return tool.model_copy(update={"parameters": named})


def _heeding(schema: Any, offer: Offer) -> Any:
    if isinstance(schema, list):
        return [_heeding(each, offer) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", schema).items():
        if name != "description" or not isinstance(value, str):
            kept[name] = _heeding(value, offer)
        elif told := offer.advice(value):
            kept[name] = told
    return kept


def takes(tool: OfferedTool, name: str) -> bool:
    """Whether it accepts a parameter of this name, published or not."""
    return name in tool.accepted["properties"]


def parameters(tool: OfferedTool) -> dict[str, bool]:
    """All that `tool` accepts, and whether it must be given."""
    required = tool.parameters.get("required", [])
    return {name: name in required for name in tool.accepted["properties"]}
