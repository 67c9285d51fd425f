# SPDX-License-Identifier: Apache-2.0
"""Output schemas in the form that is quickest to check and shortest to read. Pure.

Clients check each result against its tool's schema; the SDK's takes longer for that than a server
takes for a list. What pydantic writes means the same, but sends a checker to another place for each
item of a list (`$ref`), and lets it try alternatives for each value that may be null (`anyOf`). And
some clients put it into a model's prompt, where names say enough: titles, defaults and descriptions
are in docs/tools.md only. Called by `waggle.mcp.schema.tool` and `waggle.mcp.results.environments`.

Input schemas as clients and the APIs of models take them all, in few tokens. Pure.

Some APIs refuse a whole request for one word that they do not know: null among types, references,
exclusive bounds, schemas for the values of a map, objects without properties. What is published
has none of these; what is accepted may be more (null for "left out", an object where a list is
published). A parameter says by `json_schema_extra` what is shown of it: `unlisted()` is accepted
and documented, but not published; `listed_as(...)` publishes another schema. Called by
`waggle.mcp.schema.tool`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

Schema = Mapping[str, Any]
_DEFINITIONS = "#/$defs/"
_WORDS = frozenset({"title", "description", "default", "const"})


def inlined(schema: Schema) -> dict[str, Any]:
    """The same schema with definitions in their place.

    Raises RecursionError when a definition contains itself.
    """
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    return cast("dict[str, Any]", _inlined(rest, schema.get("$defs", {})))


def quick(schema: Schema) -> dict[str, Any]:
    """The same schema in its place, with alternatives of types as a list of them.

    A field that may be left out is never null: results leave it out then.
    """
    return cast("dict[str, Any]", _quick(inlined(schema)))


def terse(schema: Schema) -> dict[str, Any]:
    """A quick schema without its words; what must be there is said at the top only."""
    required: list[str] = schema.get("required", [])
    told = cast("dict[str, Any]", _terse(schema))
    return {**told, "required": required} if required else told


def in_words(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of an item of a list that is asked for all the time: its fields told in words.

    The SDK's client takes 7 microseconds or more for each property of each item, so that the fields
    of ten items would cost it more than all the rest of such an answer. It still checks that none
    is missing of those that every item has.
    """
    told = (
        f"{name}: {field.description}" if field.description else f"{name}."
        for name, field in model.model_fields.items()
    )
    about = " ".join([*(model.__doc__ or "").split(), *told])
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return {"type": "object", "description": about, "required": required}


def _inlined(part: object, definitions: Schema) -> object:
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    fields = cast("dict[str, Any]", part)
    reference = fields.get("$ref")
    if isinstance(reference, str):
        beside = {key: value for key, value in fields.items() if key != "$ref"}
        fields = {**definitions[reference.removeprefix(_DEFINITIONS)], **beside}
    return {key: _inlined(value, definitions) for key, value in fields.items()}


def _quick(part: object) -> object:
    if isinstance(part, list):
        return [_quick(each) for each in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    fields = cast("dict[str, Any]", part)
    if types := _types(fields.get("anyOf")):
        fields = {"type": types} | {key: each for key, each in fields.items() if key != "anyOf"}
    if isinstance(fields.get("properties"), dict):
        required: list[str] = fields.get("required", [])
        each = cast("dict[str, Any]", fields["properties"])
        named = {name: one if name in required else _present(one) for name, one in each.items()}
        fields = {**fields, "properties": named}
    return {key: _quick(value) for key, value in fields.items()}


def _present(field: Any) -> Any:
    """The schema of a field where it is there: without null."""
    variants: list[dict[str, Any]] = field.get("anyOf", [])
    others = [each for each in variants if each != {"type": "null"}]
    if not variants or len(others) == len(variants):
        return field
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    return {**others[0], **rest} if len(others) == 1 else {**rest, "anyOf": others}


def _terse(part: object) -> object:
    if isinstance(part, list):
        return [_terse(each) for each in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    fields = cast("dict[str, Any]", part)
    kept = {key: _terse(value) for key, value in fields.items() if key not in _WORDS}
    if isinstance(fields.get("properties"), dict):
        named = cast("dict[str, Any]", fields["properties"])
        kept["properties"] = {name: _terse(about) for name, about in named.items()}
        kept.pop("required", None)
    return kept


def _types(variants: object) -> list[str]:
    """The types, where each variant is one and says nothing else."""
    each = cast("list[dict[str, Any]]", variants) if isinstance(variants, list) else []
    plain = all(list(one) == ["type"] and isinstance(one["type"], str) for one in each)
    return [one["type"] for one in each] if plain else []


_UNLISTED = "waggle-unlisted"
_LISTED_AS = "waggle-listed-as"
_DROPPED = frozenset({"title", "exclusiveMinimum", "exclusiveMaximum", "additionalProperties"})
_SAID_BY_LEAVING_OUT = (None, False, "", 0)


def unlisted() -> dict[str, Any]:
    """For a parameter of programs, not of models: it is not published."""
    return {_UNLISTED: True}


def listed_as(**schema: Any) -> dict[str, Any]:
    """For a parameter that takes more than is published: `schema` is what is."""
    return {_LISTED_AS: schema}


STRINGS = listed_as(type="array", items={"type": "string"})
"""A list of strings, where more is accepted."""


def documented(schema: Schema) -> dict[str, Any]:
    """All parameters that are accepted, in the form in which they are published; for documents."""
    return _object(schema, everything=True)


def published(schema: Schema) -> dict[str, Any]:
    """What clients are told of a function's parameters."""
    return _object(schema, everything=False)


def _object(schema: Schema, *, everything: bool) -> dict[str, Any]:
    fields = cast("Mapping[str, Schema]", inlined(schema)["properties"])
    shown = {
        name: _parameter(each)
        for name, each in fields.items()
        if everything or _UNLISTED not in each
    }
    required = [name for name in schema.get("required", ()) if name in shown]
    return {
        "type": "object",
        "properties": shown,
        **({"required": required} if required else {}),
    }


def _parameter(about: Schema) -> dict[str, Any]:
    variants: list[Schema] = [v for v in about.get("anyOf", ()) if v.get("type") != "null"]
    rest = {key: value for key, value in about.items() if key not in ("anyOf", _UNLISTED)}
    if listed := rest.pop(_LISTED_AS, None):
        about = {**listed, **{key: rest[key] for key in ("description",) if key in rest}}
    elif len(variants) == 1:
        about = {**variants[0], **rest}
    else:
        about = {**rest, **({"anyOf": [_parameter(each) for each in variants]} if variants else {})}
    kept = {key: value for key, value in about.items() if key not in _DROPPED}
    if "default" in kept and kept["default"] in _SAID_BY_LEAVING_OUT:
        del kept["default"]
    if "items" in kept:
        kept["items"] = _parameter(kept["items"])
    return kept
