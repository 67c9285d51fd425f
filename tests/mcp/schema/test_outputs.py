# SPDX-License-Identifier: Apache-2.0
"""Published output schemas: quick to check, and they mean what the models mean."""

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

from waggle.domain.environment import Environment, Resources, State
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.results.environments import EnvironmentSummary, fields_of, summary
from waggle.mcp.schema.outputs import in_words, quick


class Leaf(BaseModel):
    """A definition."""

    name: str
    error: str | None
    size: int | None = None


class Tree(BaseModel):
    """Definitions in a list, in an alternative, and in each other."""

    leaves: list[Leaf]
    best: Leaf | None
    count: int | str


class Loop(BaseModel):
    """A definition within itself."""

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
def test_it_allows_and_refuses_the_same_but_null_for_what_may_be_left_out(
    value: dict[str, Any],
) -> None:
    null = "'size': None" in str([value["leaves"], value["best"]])
    assert valid(quick(SCHEMA), value) == (valid(SCHEMA, value) and not null)


def test_what_is_allowed_is_not_nothing() -> None:
    leaf = {"name": "a", "error": None}
    assert valid(quick(SCHEMA), {"leaves": [leaf], "best": leaf, "count": 1})
    assert not valid(quick(SCHEMA), {"leaves": [{"name": "a"}], "best": leaf, "count": 1})


def test_definitions_stand_in_their_place_with_what_is_said_of_them() -> None:
    made = quick(SCHEMA)
    assert "$ref" not in str(made)
    assert "$defs" not in made
    leaf = made["properties"]["leaves"]["items"]
    assert leaf["description"] == "A definition."
    assert leaf["properties"]["error"]["type"] == ["string", "null"]


def test_a_definition_within_itself_is_told_at_the_start() -> None:
    with pytest.raises(RecursionError):
        quick(TypeAdapter(Loop).json_schema())


def test_no_published_result_sends_a_checker_elsewhere() -> None:
    for tool in default_tools():
        assert "$ref" not in str(tool.output_schema)


class TestInWords:
    """list_environments, whose items clients check for their fields alone."""

    def test_each_field_is_told_and_wanted(self) -> None:
        made = in_words(EnvironmentSummary)
        optional = {"network", "error", "on_disk_until", "notice"}
        assert {*made["required"]} == {*EnvironmentSummary.model_fields} - optional
        for name, field in EnvironmentSummary.model_fields.items():
            assert f" {name}" in made["description"]
            assert (field.description or "") in made["description"]
        assert not valid(made, {"environment_id": "x"})

    def test_what_is_listed_is_what_the_model_says(self) -> None:
        moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
        environment = Environment(
            id="0b9a3c1e-6c0e-4f0e-9d7b-2f6a3f0c9f11",
            name="a",
            runtime=RuntimeName.SHELL,
            image="shell",
            owner="ann",
            resources=Resources(1, 512, 4096),
            network=NetworkPolicy.PUBLIC,
            idle_timeout=timedelta(minutes=30),
            created_at=moment,
            last_used_at=moment,
        )
        for each in (environment, replace(environment, state=State.ERROR, error="it died")):
            line = summary(each)
            assert fields_of(EnvironmentSummary.model_validate(line, strict=True)) == line
