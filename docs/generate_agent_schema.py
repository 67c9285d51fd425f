# SPDX-License-Identifier: Apache-2.0
"""Write docs/guest-agent.schema.json from the protocol's models: `./task docs`.

A test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from waggle.infra.guest.protocol import METHODS, VERSION, ErrorCode
from waggle.infra.guest.protocol.audit import Audit
from waggle.infra.guest.protocol.system import AgentStarted

NOTIFICATIONS: dict[str, type[BaseModel]] = {"agent_started": AgentStarted, "audit": Audit}
TARGET = Path(__file__).with_name("guest-agent.schema.json")


def document() -> dict[str, Any]:
    """Return the whole document."""
    models: dict[type[BaseModel], None] = {}
    for method in METHODS.values():
        models |= {method.params: None, method.result: None}
    models |= dict.fromkeys(NOTIFICATIONS.values())
    references, schemas = models_json_schema([(model, "validation") for model in models])

    def of(model: type[BaseModel]) -> dict[str, Any]:
        return references[(model, "validation")]

    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$comment": "SPDX-License-Identifier: Apache-2.0",
        "title": f"The guest agent's protocol, version {VERSION}; see guest-agent.md",
        "methods": {
            name: {"params": of(method.params), "result": of(method.result)}
            for name, method in METHODS.items()
        },
        "notifications": {name: {"params": of(model)} for name, model in NOTIFICATIONS.items()},
        "errors": {code.name.lower(): code.value for code in ErrorCode},
        "$defs": schemas["$defs"],
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
