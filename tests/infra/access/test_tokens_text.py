# SPDX-License-Identifier: Apache-2.0
"""The text of a tokens file: entries survive a round trip, and errors name the line number."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.access import Owner
from waggle.domain.errors import SettingsInvalid
from waggle.infra.access.tokens_file import (
    PREFIX,
    Entry,
    digest,
    new_token,
    parse_tokens,
    without,
)

A, B = digest("a"), digest("b")
OWNERS = st.text(st.characters(min_codepoint=0x24, max_codepoint=0x7E), min_size=1, max_size=20)
MOMENTS = st.none() | st.integers(0, 32_000_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)


@given(OWNERS, st.text(max_size=5), MOMENTS)
def test_a_written_line_reads_back_the_same(
    owner: str, token: str, expires: datetime | None
) -> None:
    entry = Entry(Owner(owner), digest(token), expires)
    assert parse_tokens(entry.line()) == {entry.digest: entry}


def test_comments_and_empty_lines_are_ignored() -> None:
    text = f"# who\n\n  ann   sha256:{A}  # her laptop\r\n\tbob sha256:{B}\n"
    assert [entry.owner for entry in parse_tokens(text).values()] == ["ann", "bob"]


@pytest.mark.parametrize(
    "line",
    [
        "ann",
        f"ann {A}",
        f"ann sha256:{A.upper()}",
        f"ann sha256:{A}0",
        f"ann md5:{A}",
        f"ann sha256:{A} 2026-01-01",
        f"ann sha256:{A} expires=2026-13-01T00:00:00Z",
        f"ann sha256:{A} expires=2026-01-01T00:00:00Z more",
        f"ann\x07 sha256:{A}",
        f"{'x' * 513} sha256:{A}",
        "wgl_secretsecret",
    ],
)
def test_a_bad_line_is_reported_by_number_alone(line: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        parse_tokens(f"bob sha256:{B}\n{line}\n")
    assert caught.value.message.startswith("Line 2 of")
    assert line not in str(caught.value)
    assert A not in str(caught.value)


def test_a_duplicate_token_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="Line 3"):
        parse_tokens(f"ann sha256:{A}\n\nbob sha256:{A}\n")


def test_removing_a_line_leaves_the_others_unchanged() -> None:
    text = f"# mine\nann sha256:{A}  # old\nbob sha256:{B}"
    assert without(text, A) == f"# mine\nbob sha256:{B}"


def test_tokens_are_long_and_unique() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith(PREFIX) and len(token) == 47 for token in tokens)
