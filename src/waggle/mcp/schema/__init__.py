# SPDX-License-Identifier: Apache-2.0
"""The JSON schemas of tools, rewritten from pydantic's for clients and model APIs. Pure.

Clients check each result against its output schema, and the SDK's client takes longer for that than
the server takes for a list. So output schemas have no `$ref` and no `anyOf` for null. Some clients
put them into prompts: titles, defaults and descriptions are in docs/tools.md only. Some APIs refuse
a request for one unknown word, so input schemas have no null, references, exclusive bounds, schemas
of map values or objects without properties; tools accept more than that (null for "left out", an
object for a list). Called by `schema.tool`, `schema.parameters`, `results.environments` and tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

Schema = Mapping[str, Any]
_DEFINITIONS = "#/$defs/"
_WORDS = frozenset({"title", "description", "default", "const"})


def inlined(schema: Schema) -> dict[str, Any]:
    """Return the schema with each `$ref` replaced by its definition.

    Raises RecursionError when a definition contains itself.
    """
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    return cast("dict[str, Any]", _inlined(rest, schema.get("$defs", {})))


def quick(schema: Schema) -> dict[str, Any]:
    """Return the schema without `$ref`, with alternatives of plain types as a list of types.

    An optional field loses its null: results leave the field out instead.
    """
    return cast("dict[str, Any]", _quick(inlined(schema)))


def terse(schema: Schema) -> dict[str, Any]:
    """Return a quick schema without words, and with `required` at the top level only."""
    required: list[str] = schema.get("required", [])
    short = cast("dict[str, Any]", _terse(schema))
    return {**short, "required": required} if required else short


def in_words(model: type[BaseModel]) -> dict[str, Any]:
    """Return a schema for items of a frequently read list, with the fields in its description.

    The SDK's client takes 7 microseconds or more for each property of each item, so the fields of
    ten items would cost it more than the rest of the answer. Clients still check required fields.
    """
    fields = (
        f"{name}: {field.description}" if field.description else f"{name}."
        for name, field in model.model_fields.items()
    )
    about = " ".join([*(model.__doc__ or "").split(), *fields])
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return {"type": "object", "description": about, "required": required}


def _inlined(part: object, definitions: Schema) -> object:
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in cast("list[object]", part)]
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
        return [_quick(item) for item in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    fields = cast("dict[str, Any]", part)
    if types := _types(fields.get("anyOf")):
        fields = {"type": types} | {key: value for key, value in fields.items() if key != "anyOf"}
    if isinstance(fields.get("properties"), dict):
        required: list[str] = fields.get("required", [])
        given = cast("dict[str, Any]", fields["properties"])
        named = {name: one if name in required else _present(one) for name, one in given.items()}
        fields = {**fields, "properties": named}
    return {key: _quick(value) for key, value in fields.items()}


def _present(field: Any) -> Any:
    """Return the schema of a field that is present: without null."""
    variants: list[dict[str, Any]] = field.get("anyOf", [])
    others = [variant for variant in variants if variant != {"type": "null"}]
    if not variants or len(others) == len(variants):
        return field
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    return {**others[0], **rest} if len(others) == 1 else {**rest, "anyOf": others}


def _terse(part: object) -> object:
    if isinstance(part, list):
        return [_terse(item) for item in cast("list[object]", part)]
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
    """Return the types of the variants; empty unless all are a type and nothing else."""
    listed = cast("list[dict[str, Any]]", variants) if isinstance(variants, list) else []
    plain = all(list(one) == ["type"] and isinstance(one["type"], str) for one in listed)
    return [one["type"] for one in listed] if plain else []


_UNLISTED = "waggle-unlisted"
_LISTED_AS = "waggle-listed-as"
_DROPPED = frozenset({"title", "exclusiveMinimum", "exclusiveMaximum", "additionalProperties"})
_SAID_BY_LEAVING_OUT = (None, False, "", 0)


def unlisted() -> dict[str, Any]:
    """Return the `json_schema_extra` of a parameter that is accepted and documented only.

    It is for programs, not for models, so it is not published.
    """
    return {_UNLISTED: True}


def listed_as(**schema: Any) -> dict[str, Any]:
    """Return the `json_schema_extra` of a parameter that accepts more than the published schema."""
    return {_LISTED_AS: schema}


STRINGS = listed_as(type="array", items={"type": "string"})
"""For a parameter that is published as a list of strings and accepts more."""


def documented(schema: Schema) -> dict[str, Any]:
    """Return the schema of all accepted parameters, in the published form; for docs/tools.md."""
    return _object(schema, everything=True)


def published(schema: Schema) -> dict[str, Any]:
    """Return the schema of a function's parameters that clients receive."""
    return _object(schema, everything=False)


def _object(schema: Schema, *, everything: bool) -> dict[str, Any]:
    fields = cast("Mapping[str, Schema]", inlined(schema)["properties"])
    shown = {
        name: _parameter(field)
        for name, field in fields.items()
        if everything or _UNLISTED not in field
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
        about = {
            **rest,
            **({"anyOf": [_parameter(variant) for variant in variants]} if variants else {}),
        }
    kept = {key: value for key, value in about.items() if key not in _DROPPED}
    if "default" in kept and kept["default"] in _SAID_BY_LEAVING_OUT:
        del kept["default"]
    if "items" in kept:
        kept["items"] = _parameter(kept["items"])
    return kept
