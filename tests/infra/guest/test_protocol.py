# SPDX-License-Identifier: Apache-2.0
"""The protocol's types, schema and page say the same."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from tests.support.agent_peer import GOOD

from waggle.infra.guest.calls import encoded
from waggle.infra.guest.protocol import (
    MAX_ANSWER,
    MAX_DEPTH,
    MAX_REQUEST,
    METHODS,
    PORT,
    VERSION,
    Again,
    ErrorCode,
)
from waggle.infra.guest.protocol.audit import Audit
from waggle.infra.guest.protocol.fields import MAX_ID, MAX_READ, MAX_WRITE
from waggle.infra.guest.protocol.system import Limits, PolicyInfo

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "guest-agent.md").read_text("utf-8")
SCHEMA: dict[str, Any] = json.loads((DOCS / "guest-agent.schema.json").read_text("utf-8"))
POLICY = json.loads(re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)[0])
BAD: list[object] = [
    None, 7, "x", [], {"path": "relative"}, {"path": "/a\0b"}, {"process": 0}, {"argv": []},
    {"more": 1}, {"time": -1},
]  # fmt: skip


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = DOCS / "generate_agent_schema.py"
    spec = importlib.util.spec_from_file_location("generate_agent_schema", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(title: str) -> str:
    """Return one section of the page."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def check(value: object, method: str, part: str) -> None:
    """Check the `params` or the `result` of a method against the schema."""
    of_it = {**SCHEMA["methods"][method][part], "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(of_it).validate(value)  # pyright: ignore[reportUnknownMemberType]


def test_the_schema_is_up_to_date(generator: ModuleType) -> None:
    assert (DOCS / "guest-agent.schema.json").read_text("utf-8") == generator.text(), (
        "run python docs/generate_agent_schema.py"
    )


def test_the_schema_has_all_and_is_one() -> None:
    assert [*SCHEMA["methods"]] == [*METHODS]
    assert SCHEMA["errors"] == {code.name.lower(): code for code in ErrorCode}
    for one in SCHEMA["$defs"].values():
        jsonschema.Draft202012Validator.check_schema(one)


@pytest.mark.parametrize("method", METHODS)
def test_results_that_the_models_take_are_in_the_schema(method: str) -> None:
    taken = METHODS[method].result.model_validate(GOOD[method])
    check(GOOD[method], method, "result")
    check(taken.model_dump(mode="json"), method, "result")
    for name in GOOD[method]:
        with pytest.raises(jsonschema.ValidationError):
            check({**GOOD[method], name: [{"x": 1}]}, method, "result")


@pytest.mark.parametrize("method", METHODS)
def test_models_and_schema_refuse_the_same_parameters(method: str) -> None:
    for bad in BAD:
        with pytest.raises(ValueError, match="validation error"):
            METHODS[method].params.model_validate(bad)
        with pytest.raises(jsonschema.ValidationError):
            check(bad, method, "params")
    required = METHODS[method].params.model_json_schema().get("required", [])
    good = {"path": "/a", "data": b"\0", "argv": ["/x", ""], "process": 3, "time": 2**63 - 1}
    text = encoded(method, {name: good[name] for name in required})
    check(json.loads(text), method, "params")


def test_the_page_names_every_method_in_order() -> None:
    names = [
        name for cells in rows(section("Methods")) for name in re.findall(r"`(\w+)`", cells[0])
    ]
    assert names == [*METHODS]


def test_the_page_names_every_error() -> None:
    named = {cells[1]: int(cells[0]) for cells in rows(section("Errors"))}
    assert named == {code.name.lower(): code.value for code in ErrorCode}


def test_the_page_names_every_limit() -> None:
    transport, messages, methods = map(section, ("Transport", "Messages", "Methods"))
    assert f"is at most {MAX_REQUEST:,} bytes long" in " ".join(transport.split())
    assert f"a line from it at most {MAX_ANSWER:,}" in " ".join(transport.split())
    assert f"at most {MAX_DEPTH} deep" in transport
    assert f"`{PORT}`" in transport
    assert f"string of at most {MAX_ID} bytes" in " ".join(messages.split())
    assert f"at most {MAX_READ:,} bytes" in methods
    assert f"at most {MAX_WRITE:,} bytes" in methods
    assert f"**version {VERSION}**" in PAGE


def test_the_largest_parts_of_files_fit_into_lines() -> None:
    path = "/" + "ü" * 2_047
    request = encoded("file_write", {"path": path, "data": b"\0" * MAX_WRITE, "offset": 2**53 - 1})
    assert len(request.encode()) + 100 < MAX_REQUEST
    assert 2 * (MAX_READ * 4 // 3) + 4_000 < MAX_ANSWER


def test_the_page_names_every_member_of_a_policy() -> None:
    named = [cells[0].strip("`") for cells in rows(section("The policy"))]
    assert named == [*POLICY]
    assert {*PolicyInfo.model_fields} | {"methods", "audit"} == {*named}
    assert {*POLICY["limits"]} == {*Limits.model_fields}


def test_the_page_names_every_member_of_a_note() -> None:
    assert [row[0].strip("`") for row in rows(section("What is noted"))] == [*Audit.model_fields]


def test_the_policy_of_the_page_is_one() -> None:
    said = {name: value for name, value in POLICY.items() if name not in {"methods", "audit"}}
    PolicyInfo.model_validate(said)
    assert {*POLICY["methods"]["allow"], *POLICY["methods"]["deny"]} <= {*METHODS, "*"}
    assert POLICY["limits"]["read_bytes"] == MAX_READ
    assert POLICY["limits"]["write_bytes"] == MAX_WRITE


def test_the_commands_of_the_page_name_methods_and_their_parameters() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("$ waggle agent ")]
    assert lines
    for line in lines:
        words = [word for word in shlex.split(line)[5:] if not word.startswith("--")]
        fields = METHODS[words[0]].params.model_fields
        assert {word.partition("=")[0] for word in words[1:]} <= {*fields}, line


def test_the_page_says_what_is_idempotent() -> None:
    said: dict[str, bool] = {}
    for cells in rows(section("Methods")):
        said |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[2] == "idempotent")
    assert said == {name: method.again is not Again.ANEW for name, method in METHODS.items()}


def test_the_page_names_every_notification() -> None:
    named = re.findall(r"`(\w+)` and, if its\s+policy says so, `(\w+)`", section("Messages"))
    assert named == [tuple(SCHEMA["notifications"])]
