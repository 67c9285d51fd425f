# SPDX-License-Identifier: Apache-2.0
"""A sample of each model of the VMMs' APIs, with every field set, made from its JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel

_TEXTS = ("a1", "/a", "0b1")
_Model = TypeVar("_Model", bound=BaseModel)


def sample(model: type[_Model]) -> _Model:
    """Return a body with all fields of `model`, and of the models in it."""
    schema = model.model_json_schema(by_alias=True)
    value = _value(schema, schema.get("$defs", {}))
    return model.model_validate_json(json.dumps(value))


def _value(schema: dict[str, Any], defs: dict[str, Any]) -> object:
    if "$ref" in schema:
        return _value(defs[schema["$ref"].rsplit("/", 1)[1]], defs)
    if "anyOf" in schema:
        return _value(schema["anyOf"][0], defs)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "")
    if kind == "object":
        return _object(schema, defs)
    if kind == "array":
        return [_value(schema["items"], defs)]
    if kind == "string":
        return next(text for text in _TEXTS if re.search(schema.get("pattern", ""), text))
    return {"integer": max(1, schema.get("minimum", 1)), "boolean": True}.get(kind, "anything")


def _object(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, object]:
    members = schema.get("properties", {})
    if not members and "additionalProperties" in schema:
        return {"a1": _value(schema["additionalProperties"] or {}, defs)}
    return {name: _value(one, defs) for name, one in members.items()}
