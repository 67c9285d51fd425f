# SPDX-License-Identifier: Apache-2.0
"""Published output schemas: quick to check, and with the meaning of the models."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter
from tests.support.server import default_tools

from waggle.domain.environment import Environment, State
from waggle.domain.machine import Resources
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.results import fields_of
from waggle.mcp.results.environments import EnvironmentSummary, summary
from waggle.mcp.schema import in_words, quick


class Leaf(BaseModel):
    """A definition."""

    name: str
    error: str | None
    size: int | None = None


class Tree(BaseModel):
    """A model with other models in a list and in an alternative."""

    leaves: list[Leaf]
    best: Leaf | None
    count: int | str


class Loop(BaseModel):
    """A model that contains itself."""

    inner: list[Loop]


SCHEMA = TypeAdapter(Tree).json_schema()
values = st.none() | st.integers() | st.text(max_size=3)
leaves = st.dictionaries(st.sampled_from(["name", "error", "size"]), values, max_size=3)


def valid(schema: dict[str, Any], value: object) -> bool:
    return bool(cast("Any", Draft202012Validator(schema)).is_valid(value))


@given(
    st.fixed_dictionaries(
        {"leaves": st.lists(leaves, max_size=3) | values, "best": leaves | values, "count": values}
    )
)
def test_a_quick_schema_differs_only_in_null_for_optional_fields(
    value: dict[str, Any],
) -> None:
    null = "'size': None" in str([value["leaves"], value["best"]])
    assert valid(quick(SCHEMA), value) == (valid(SCHEMA, value) and not null)


def test_a_quick_schema_accepts_a_valid_value() -> None:
    leaf = {"name": "a", "error": None}
    assert valid(quick(SCHEMA), {"leaves": [leaf], "best": leaf, "count": 1})
    assert not valid(quick(SCHEMA), {"leaves": [{"name": "a"}], "best": leaf, "count": 1})


def test_definitions_are_inlined_with_their_descriptions() -> None:
    made = quick(SCHEMA)
    assert "$ref" not in str(made)
    assert "$defs" not in made
    leaf = made["properties"]["leaves"]["items"]
    assert leaf["description"] == "A definition."
    assert leaf["properties"]["error"]["type"] == ["string", "null"]


def test_a_recursive_definition_is_refused() -> None:
    with pytest.raises(RecursionError):
        quick(TypeAdapter(Loop).json_schema())


def test_no_published_schema_contains_a_reference() -> None:
    for tool in default_tools():
        assert "$ref" not in str(tool.output_schema)


class TestInWords:
    """The schema of list_environments, whose items state only which fields exist."""

    def test_every_field_is_described_and_required_unless_optional(self) -> None:
        made = in_words(EnvironmentSummary)
        optional = {"network", "error", "on_disk_until", "notice"}
        assert {*made["required"]} == {*EnvironmentSummary.model_fields} - optional
        for name, field in EnvironmentSummary.model_fields.items():
            assert f" {name}" in made["description"]
            assert (field.description or "") in made["description"]
        assert not valid(made, {"environment_id": "x"})

    def test_a_listed_item_fits_the_model(self) -> None:
        now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
        environment = Environment(
            id="0b9a3c1e-6c0e-4f0e-9d7b-2f6a3f0c9f11",
            name="a",
            runtime=RuntimeName.SHELL,
            image="shell",
            owner="ann",
            resources=Resources(1, 512, 4096),
            network=PUBLIC_NETWORK,
            idle_timeout=timedelta(minutes=30),
            created_at=now,
            last_used_at=now,
        )
        for variant in (environment, replace(environment, state=State.ERROR, error="it died")):
            line = summary(variant)
            assert fields_of(EnvironmentSummary.model_validate(line, strict=True)) == line
