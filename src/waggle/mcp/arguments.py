# SPDX-License-Identifier: Apache-2.0
"""Turn a function into a tool whose published input schema is exactly what is accepted.

Called by `waggle.mcp.tools`. On top of the SDK: unknown parameters are refused instead of dropped,
`true` is no number, and a string is parsed as JSON only for parameters that are lists, objects,
numbers or booleans (some clients send these as text), never for text, where `true` or `[1]` is a
perfectly good value.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from types import MethodType
from typing import Any, cast

from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import ToolAnnotations
from pydantic import ConfigDict, create_model

from waggle.domain.toolset import Offer
from waggle.mcp.output_schemas import quick

Schema = Mapping[str, Any]


_OPENING = {"array": "[", "object": "{"}
_PLAIN = (*"-0123456789", "true", "false")
_NUMBERS = {"integer", "number", "boolean", "null"}


class _Metadata(FuncMetadata):
    """The SDK's metadata of a function, with a narrower reading of JSON inside strings.

    `openings` says, for each parameter that is a list or an object, how its JSON begins; `plain`
    are those that take a number or a boolean.
    """

    openings: dict[str, tuple[str, ...]]
    plain: frozenset[str]

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Parse strings that hold the list or object that their parameter asks for."""
        return {
            name: _plain(value) if name in self.plain else _parsed(value, self.openings.get(name))
            for name, value in data.items()
        }


def _plain(value: object) -> object:
    """5 for "5", and for 5.0, which is the same to JSON Schema; what is neither stays."""
    if isinstance(value, str):
        value = _parsed(value, _PLAIN)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parsed(value: object, openings: tuple[str, ...] | None) -> object:
    if not openings or not isinstance(value, str) or not value.lstrip().startswith(openings):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _kinds(schema: Schema) -> list[str]:
    variants = cast("list[Schema]", schema.get("anyOf", [schema]))
    return [str(variant.get("type")) for variant in variants]


def make_tool(
    method: Callable[..., Awaitable[object]],
    *,
    title: str,
    description: str,
    annotations: ToolAnnotations,
) -> Tool:
    """Build the tool named like `method`, with the parameters and result of its signature."""
    told = {"title": title, "description": description, "annotations": annotations}
    return _shape(cast("MethodType", method).__func__).model_copy(update={"fn": method, **told})


@cache  # takes milliseconds, and says the same of every object that has the method
def _shape(function: Callable[..., Awaitable[object]]) -> Tool:
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
    parameters = strict.model_json_schema(by_alias=True)
    kinds = {name: _kinds(schema) for name, schema in parameters["properties"].items()}
    metadata = _Metadata(
        openings={
            name: tuple(_OPENING[kind] for kind in each if kind in _OPENING)
            for name, each in kinds.items()
        },
        plain=frozenset(name for name, each in kinds.items() if _NUMBERS.issuperset(each)),
        arg_model=strict,
        # Without a model the SDK does not check results again, which are made from models here.
        output_schema=plain.output_schema and quick(plain.output_schema),
    )
    return tool.model_copy(update={"fn_metadata": metadata, "parameters": parameters})


def described(tool: Tool, offer: Offer) -> Tool:
    """The same tool, whose words name no tool that clients cannot call."""
    told = "\n".join(filter(None, map(offer.advice, tool.description.split("\n"))))
    output = tool.fn_metadata.output_schema
    metadata = tool.fn_metadata.model_copy(update={"output_schema": _heeding(output, offer)})
    return tool.model_copy(
        update={
            "description": told,
            "parameters": _heeding(tool.parameters, offer),
            "fn_metadata": metadata,
        }
    )


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


def parameter_names(tool: Tool) -> list[str]:
    """The parameters of `tool` as a person would list them, the required ones marked."""
    required = tool.parameters.get("required", [])
    return [
        f"{name} (required)" if name in required else name for name in tool.parameters["properties"]
    ]
