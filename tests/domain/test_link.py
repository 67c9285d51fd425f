# SPDX-License-Identifier: Apache-2.0
"""Signed links: they open what they were made for, until they expire, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.link import MAX_MINUTES, LinkTarget, judge, parse_minutes, sign

KEY = bytes(range(32))
TARGET = LinkTarget("00000000-0000-4000-8000-000000000001", 8000, "alice", "k1")
OTHERS = [
    replace(TARGET, environment_id="00000000-0000-4000-8000-000000000002"),
    replace(TARGET, port=800),
    replace(TARGET, owner="eve"),
    replace(TARGET, key="k2"),
    replace(TARGET, owner="alicek", key="1"),
]


def test_a_link_opens_its_target_until_it_expires() -> None:
    link = sign(KEY, TARGET, 1_000)
    assert judge(KEY, TARGET, link.token, 999.9) == link.expires == 1_000
    assert judge(KEY, TARGET, link.token, 1_000) is None


@pytest.mark.parametrize("other", OTHERS)
def test_a_link_opens_nothing_else(other: LinkTarget) -> None:
    assert judge(KEY, other, sign(KEY, TARGET, 1_000).token, 0) is None


def test_a_link_of_another_server_opens_nothing() -> None:
    assert judge(bytes(32), TARGET, sign(KEY, TARGET, 1_000).token, 0) is None


@given(st.integers(0, 50), st.characters(codec="ascii"))
def test_a_changed_token_opens_nothing(at: int, by: str) -> None:
    token = sign(KEY, TARGET, 1_000).token
    changed = token[:at] + by + token[at + 1 :]
    assert judge(KEY, TARGET, changed, 0) == (1_000 if changed == token else None)


@given(st.text(max_size=80))
def test_any_text_may_be_given_as_a_token(text: str) -> None:
    assert judge(KEY, TARGET, text, 0) is None


def test_every_token_has_one_form() -> None:
    """No other text decodes to the same token, with padding or spare bits."""
    for expires in range(64):
        token = sign(KEY, TARGET, expires + 10).token
        assert judge(KEY, TARGET, token, 0) == expires + 10
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            if last != token[-1]:
                assert judge(KEY, TARGET, token[:-1] + last, 0) is None
        assert judge(KEY, TARGET, token + "=", 0) is None


def test_a_link_is_valid_for_a_minute_to_a_week() -> None:
    assert (parse_minutes(1), parse_minutes(MAX_MINUTES)) == (60, 7 * 86_400)
    assert parse_minutes(1.5) == 90
    for minutes in (0, -1, 0.9, MAX_MINUTES + 1, math.inf, math.nan):
        with pytest.raises(InvalidArgument, match="1 to 10080"):
            parse_minutes(minutes)
