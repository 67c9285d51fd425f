# SPDX-License-Identifier: Apache-2.0
"""Owners and scopes: which names are valid, and that two subjects never become one owner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.access import escaped, has_scope, issued_owner, parse_owner
from waggle.domain.errors import InvalidArgument

ISSUERS = st.sampled_from(["https://a.test", "https://a.test/b", "https://b.test"])


@pytest.mark.parametrize("text", ["ann", "ann@example.test", "https://i.test#ann", "x" * 512])
def test_an_owner_is_printable_ascii(text: str) -> None:
    assert parse_owner(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a\n", "ä", "a\x00b", "x" * 513, "\x1b[31m"])
def test_any_other_owner_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_owner(text)


@given(st.text(max_size=20), st.text(max_size=20), ISSUERS, ISSUERS)
def test_two_subjects_never_share_an_owner(one: str, two: str, here: str, there: str) -> None:
    assert escaped(one).isascii()
    assert (escaped(one) == escaped(two)) == (one == two)
    if one and two:
        same = issued_owner(here, one) == issued_owner(there, two)
        assert same == ((here, one) == (there, two))


def test_a_scope_is_a_whole_word() -> None:
    assert has_scope([], "")
    assert has_scope(["a", "waggle"], "waggle")
    assert not has_scope(["waggle:read"], "waggle")
