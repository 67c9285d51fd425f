# SPDX-License-Identifier: Apache-2.0
"""The family of errors: every leaf has a code of its own and says something."""

import re

import pytest

from waggle.domain import errors
from waggle.domain.errors import MaxEnvironments, NotFound, WaggleError

LEAVES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, WaggleError) and each is not WaggleError
]


def test_codes_are_distinct_and_machine_readable() -> None:
    codes = [leaf.code for leaf in LEAVES if leaf.__bases__ == (WaggleError,)]
    assert len(codes) == len(set(codes)) >= 10
    assert "internal" not in codes
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_a_refinement_looks_to_clients_like_what_it_refines() -> None:
    for leaf in LEAVES:
        refined = [base for base in LEAVES if base is not leaf and issubclass(leaf, base)]
        assert [base.code for base in refined] == [leaf.code] * len(refined)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_a_leaf_is_documented_and_carries_its_message(leaf: type[WaggleError]) -> None:
    assert leaf.__doc__
    error = leaf("Something happened.")
    assert error.message == "Something happened."
    assert str(error) == f"Something happened. {leaf.default_hint}".strip()


def test_a_hint_of_its_own_replaces_the_usual_one_and_may_be_none_at_all() -> None:
    assert NotFound("Gone.").hint == NotFound.default_hint
    assert NotFound("Gone.", hint="Look elsewhere.").hint == "Look elsewhere."
    assert str(NotFound("Gone.", hint="")) == "Gone."


def test_what_may_succeed_later_says_so() -> None:
    assert MaxEnvironments("Full.").retryable
    assert not NotFound("Gone.").retryable
