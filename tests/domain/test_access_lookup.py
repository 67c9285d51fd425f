# SPDX-License-Identifier: Apache-2.0
"""The lookup of an owner's environment by id, name or start of an id."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.access import find_id, parse_reference_text
from waggle.domain.errors import InvalidArgument

A = "aaaaaa11-0000-4000-8000-000000000001"
B = "aaaaaa22-0000-4000-8000-000000000002"
C = "cccccc33-0000-4000-8000-000000000003"
KNOWN = [(A, "web"), (B, "build"), (C, "build")]


@pytest.mark.parametrize(
    "reference, meant",
    [
        (A, A),
        (A.upper(), A),
        ("web", A),
        ("cccccc", C),
        ("CCCCCC33", C),
        ("aaaaaa11-0000", A),
        ("aaaaa", None),
        ("cccc", None),
        ("Web", None),
        ("we", None),
        ("dddddd", None),
        ("dddddddd-0000-4000-8000-000000000004", None),
    ],
)
def test_an_id_a_name_or_the_start_of_an_id_is_found(reference: str, meant: str | None) -> None:
    assert find_id(reference, KNOWN) == meant


@pytest.mark.parametrize("reference, ids", [("build", (B, C)), ("aaaaaa", (A, B))])
def test_an_ambiguous_reference_is_refused_with_all_candidates(
    reference: str, ids: tuple[str, str]
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        find_id(reference, KNOWN)
    assert all(known in refused.value.message for known in ids)
    assert "whole id" in refused.value.hint


def test_an_id_precedes_a_name_and_a_name_precedes_the_start_of_an_id() -> None:
    assert find_id(A, [(A, "x"), (B, A)]) == A
    assert find_id("cccccc", [(A, "cccccc"), (C, "x")]) == A


def test_a_long_list_of_candidates_is_cut() -> None:
    many = [(str(uuid.UUID(int=number)), "x") for number in range(100)]
    with pytest.raises(InvalidArgument, match=r"100 of yours.*and 95 more"):
        find_id("x", many)


@pytest.mark.parametrize("text", ["", " ", "a b", "a/b", "\n", "a\0", "x" * 64, "-", "ä", "../x"])
def test_a_text_that_is_neither_id_nor_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_reference_text(text, "environment_id", "create_environment")
    assert "create_environment" in refused.value.hint
    assert "\n" not in refused.value.message


@given(st.lists(st.uuids(), unique=True, min_size=1, max_size=20), st.data())
def test_a_short_id_is_found_or_refused_as_ambiguous(
    ids: list[uuid.UUID], data: st.DataObject
) -> None:
    known = [(str(value), f"name-{number}") for number, value in enumerate(ids)]
    meant = str(data.draw(st.sampled_from(ids)))
    short = meant[: data.draw(st.integers(6, 36))]
    try:
        assert find_id(short, known) == meant
    except InvalidArgument:
        assert sum(known_id.startswith(short) for known_id, _ in known) > 1
