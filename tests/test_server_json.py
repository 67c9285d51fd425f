# SPDX-License-Identifier: Apache-2.0
"""server.json, by which the MCP registry lists waggle: well formed, and true.

`RULES` describes the parts of the registry's format of 2025-12-11 that waggle uses. It is stricter
in one point: the file may contain nothing that `RULES` does not name.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from waggle import __version__
from waggle.cli import main
from waggle.config import fields, load, variable

ROOT = Path(__file__).parents[1]
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def closed(required: str, **properties: object) -> dict[str, Any]:
    """Return the schema of an object with the required members and no unknown ones."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


ALNUM = "[a-zA-Z0-9]"
TEXT = {"type": "string", "minLength": 1}
SPECIFIC = {"type": "string", "pattern": r"^\d+(\.\d+){1,3}([-+.a-z][0-9A-Za-z.+-]*)?$"}
INPUT = {
    "description": TEXT,
    "format": {"enum": ["string", "number", "boolean", "filepath"]},
    "default": {"type": "string"},
    "choices": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "placeholder": {"type": "string"},
    "isRequired": {"type": "boolean"},
    "isSecret": {"type": "boolean"},
}
ARGUMENT = {
    "oneOf": [
        closed("type value", type={"const": "positional"}, value=TEXT),
        # With a description or a default, clients ask their user for a value.
        closed(
            "type name",
            type={"const": "named"},
            name={"type": "string", "pattern": r"^[^<>$ ]+$"},
            value=TEXT,
        ),
    ]
}
PACKAGE = closed(
    "registryType identifier version transport",
    registryType={"const": "pypi"},
    identifier={"type": "string", "pattern": r"^[^\s/:]+$"},
    version=SPECIFIC,
    runtimeHint={"const": "uvx"},
    transport=closed("type", type={"const": "stdio"}),
    packageArguments={"type": "array", "items": ARGUMENT},
    environmentVariables={"type": "array", "items": closed("name", name=TEXT, **INPUT)},
)
RULES = closed(
    "$schema name description version packages",
    **{
        "$schema": {
            "const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
        },
        "name": {
            "type": "string",
            "maxLength": 200,
            "pattern": f"^{ALNUM}[a-zA-Z0-9.-]*{ALNUM}/{ALNUM}[a-zA-Z0-9._-]*{ALNUM}$",
        },
        "title": {**TEXT, "maxLength": 100},
        "description": {**TEXT, "maxLength": 100},
        "version": {**SPECIFIC, "maxLength": 255},
        "packages": {"type": "array", "items": PACKAGE, "minItems": 1, "maxItems": 1},
    },
)
(OFFERED,) = SERVER["packages"]


def problems(document: Any) -> list[str]:
    return [error.json_path for error in Draft202012Validator(RULES).iter_errors(document)]  # pyright: ignore[reportUnknownMemberType]


def test_server_json_has_the_form_that_the_registry_accepts() -> None:
    Draft202012Validator.check_schema(RULES)
    assert problems(SERVER) == []


@pytest.mark.parametrize(
    "place, value, found",
    [
        (["name"], "waggle", "$.name"),
        (["name"], "a/b/c", "$.name"),
        (["description"], "x" * 101, "$.description"),
        (["version"], "latest", "$.version"),
        (["packages", 0, "version"], ">=0.1.0", "$.packages[0].version"),
        (["packages", 0, "version"], "0.x", "$.packages[0].version"),
        (["packages", 0, "transport", "url"], "x", "$.packages[0].transport"),
        (["packages", 0, "registryBaseUrl"], "x", "$.packages[0]"),
        (["packages", 0, "packageArguments", 1, "name"], "--stdio x",
         "$.packages[0].packageArguments[1]"),
    ],
)  # fmt: skip
def test_the_rules_find_mistakes_that_the_registry_refuses(
    place: list[str | int], value: str, found: str
) -> None:
    wrong = copy.deepcopy(SERVER)
    at: Any = wrong
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    assert problems(wrong) == [found]


def test_server_json_names_this_package_and_version() -> None:
    assert OFFERED["identifier"] == PROJECT["name"]
    assert (SERVER["version"], OFFERED["version"]) == (__version__, __version__)


def test_the_readme_names_the_server_of_the_package() -> None:
    text = (ROOT / PROJECT["readme"]).read_text("utf-8")
    assert re.findall(r"mcp-name: ([A-Za-z0-9._/-]+)", text) == [SERVER["name"]]


def test_uvx_finds_a_command_with_the_name_of_the_package() -> None:
    scripts = PROJECT["scripts"]
    assert scripts[OFFERED["identifier"]] == scripts["waggle"]


def test_the_command_line_serves_on_stdio() -> None:
    words = [
        argument[key]
        for argument in OFFERED["packageArguments"]
        for key in ("name", "value")
        if key in argument
    ]
    function, bound, _ = main.app.parse_args(words, exit_on_error=False, print_error=False)
    assert function is main.serve
    assert bound.arguments == {"stdio": True}


@pytest.mark.parametrize("given", OFFERED["environmentVariables"], ids=lambda given: given["name"])
def test_the_variables_are_settings_of_waggle(given: dict[str, Any]) -> None:
    names = {variable(field): field for field in fields()}
    field = names[given["name"]]
    setting = fields()[field]
    assert given["description"] == setting.description
    assert given.get("default", "") == (setting.default or "")
    assert given.get("isSecret", False) == (setting.annotation is SecretStr)
    for choice in given.get("choices", ()):
        load({given["name"]: choice})
