# SPDX-License-Identifier: Apache-2.0
"""Input schemas as clients and the APIs of models take them all, in few tokens. Pure.

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

from waggle.mcp.schema.outputs import Schema, inlined

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
