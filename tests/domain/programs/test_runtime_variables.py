# SPDX-License-Identifier: Apache-2.0
"""Environment variables in the forms that clients give."""

import pytest

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.programs.runtime import MAX_VARIABLES_BYTES, parse_own_variables, parse_variables


def test_an_object_may_hold_numbers_and_booleans() -> None:
    given = {"PORT": 8080, "RATE": 0.5, "DEBUG": True, "QUIET": False, "NAME": "x", "NONE": ""}
    assert parse_variables(given) == {
        "PORT": "8080",
        "RATE": "0.5",
        "DEBUG": "true",
        "QUIET": "false",
        "NAME": "x",
        "NONE": "",
    }


def test_a_list_holds_names_with_values() -> None:
    assert parse_variables(["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}
    assert parse_variables([]) == parse_variables({}) == {}


@pytest.mark.parametrize(
    "given", [["A"], ["=1"], {"": "x"}, {"A=B": "x"}, {"A": None}, {"A": ["x"]}, {"A": "\0"}]
)
def test_a_malformed_variable_is_refused(given: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_variables(given)  # pyright: ignore[reportArgumentType]
    assert refused.value.hint


def test_the_variables_of_an_environment_are_bounded_in_size() -> None:
    assert parse_own_variables({"A": "x" * (MAX_VARIABLES_BYTES - 3)})
    with pytest.raises(TooLarge):
        parse_own_variables({"A": "x" * (MAX_VARIABLES_BYTES - 2)})
