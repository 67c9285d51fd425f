# SPDX-License-Identifier: Apache-2.0
"""A sample of each model of the VMMs' APIs, with every field set; what an answer keeps of it."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar, cast

from pydantic import BaseModel

_TEXTS = ("a1", "/a", "0b1", "1", "169.254.1.1", "06:00:00:00:00:01")
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


def assert_within(kept: object, said: Any) -> None:
    """Check that what was kept was said, and that nothing but unknown fields is missing."""
    if isinstance(kept, dict):
        for name, value in cast("dict[str, object]", kept).items():
            assert_within(value, said[name])
    elif isinstance(kept, list):
        for one, other in zip(cast("list[object]", kept), said, strict=True):
            assert_within(one, other)
    else:
        assert kept == said
