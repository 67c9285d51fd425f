# SPDX-License-Identifier: Apache-2.0
"""The errors of waggle: every class has a code, a description and a message."""

import re

import pytest

from waggle.domain import errors
from waggle.domain.errors import MaxEnvironments, NotFound, WaggleError

LEAVES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, WaggleError) and kind is not WaggleError
]


def test_codes_are_distinct_and_machine_readable() -> None:
    codes = [leaf.code for leaf in LEAVES if leaf.__bases__ == (WaggleError,)]
    assert len(codes) == len(set(codes)) >= 10
    assert "internal" not in codes
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_a_subclass_has_the_code_of_its_base() -> None:
    for leaf in LEAVES:
        refined = [base for base in LEAVES if base is not leaf and issubclass(leaf, base)]
        assert [base.code for base in refined] == [leaf.code] * len(refined)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_an_error_is_documented_and_carries_its_message(leaf: type[WaggleError]) -> None:
    assert leaf.__doc__
    error = leaf("Something happened.")
    assert error.message == "Something happened."
    assert str(error) == f"Something happened. {leaf.default_hint}".strip()


def test_a_given_hint_replaces_the_default_and_may_be_empty() -> None:
    assert NotFound("Gone.").hint == NotFound.default_hint
    assert NotFound("Gone.", hint="Look elsewhere.").hint == "Look elsewhere."
    assert str(NotFound("Gone.", hint="")) == "Gone."


def test_only_errors_that_may_pass_are_retryable() -> None:
    assert MaxEnvironments("Full.").retryable
    assert not NotFound("Gone.").retryable
