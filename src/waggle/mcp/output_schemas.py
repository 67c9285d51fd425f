# SPDX-License-Identifier: Apache-2.0
"""Output schemas in the form that is quickest to check. Pure.

Clients check each result against its tool's schema; the SDK's takes longer for that than a server
takes for a list. What pydantic writes means the same, but sends a checker to another place for each
item of a list (`$ref`), and lets it try alternatives for each value that may be null (`anyOf`).
Called by `waggle.mcp.arguments` and `waggle.mcp.results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

Schema = Mapping[str, Any]
_DEFINITIONS = "#/$defs/"


def quick(schema: Schema) -> dict[str, Any]:
    """The same schema with definitions in their place, and alternatives of types as a list of them.

    Raises RecursionError when a definition contains itself.
    """
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    return cast("dict[str, Any]", _quick(rest, schema.get("$defs", {})))


def in_words(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of an item of a list that is asked for all the time: its fields told in words.

    The SDK's client takes 7 microseconds or more for each property of each item, so that the fields
    of ten items would cost it more than all the rest of such an answer. It still checks that none
    of them is missing.
    """
    told = (
        f"{name}: {field.description}" if field.description else f"{name}."
        for name, field in model.model_fields.items()
    )
    about = " ".join([*(model.__doc__ or "").split(), *told])
    return {"type": "object", "description": about, "required": [*model.model_fields]}


def _quick(part: object, definitions: Schema) -> object:
    if isinstance(part, list):
        return [_quick(each, definitions) for each in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    fields = cast("dict[str, Any]", part)
    reference = fields.get("$ref")
    if isinstance(reference, str):
        beside = {key: value for key, value in fields.items() if key != "$ref"}
        fields = {**definitions[reference.removeprefix(_DEFINITIONS)], **beside}
    elif types := _types(fields.get("anyOf")):
        fields = {"type": types} | {key: each for key, each in fields.items() if key != "anyOf"}
    return {key: _quick(value, definitions) for key, value in fields.items()}


def _types(variants: object) -> list[str]:
    """The types, where each variant is one and says nothing else."""
    each = cast("list[dict[str, Any]]", variants) if isinstance(variants, list) else []
    plain = all(list(one) == ["type"] and isinstance(one["type"], str) for one in each)
    return [one["type"] for one in each] if plain else []
