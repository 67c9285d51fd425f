# SPDX-License-Identifier: Apache-2.0
"""Durations as options of the command line."""

from __future__ import annotations

from datetime import timedelta

import pytest

from waggle.cli.durations import parse_option, shown
from waggle.domain.errors import InvalidArgument

MINUTE, WEEK = timedelta(minutes=1), timedelta(days=7)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43_200),
        ("7d", 604_800),
        ("1d12h", 129_600),
        ("1h30m", 5400),
        ("120", 120),
        ("604800", 604_800),
    ],
)
def test_units_and_plain_seconds_are_read(text: str, seconds: int) -> None:
    assert parse_option("--expires", text, MINUTE, WEEK).total_seconds() == seconds


@pytest.mark.parametrize(
    "text", ["", "30s", "8d", "169h", "0", "0m", "soon", "-5m", "1.5h", "5 m", "5M", "٣d", "1m1h"]
)
def test_others_are_refused_in_the_same_words(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_option("--expires", text, MINUTE, WEEK)
    assert refused.value.message == f"--expires {text!a} is no duration from 1m to 7d."
    assert refused.value.hint == "Write it as 90s, 30m, 12h or 7d; a number alone is seconds."


def test_without_bounds_it_may_be_nothing_but_no_age_of_the_world() -> None:
    assert not parse_option("--older-than", "0")
    assert not parse_option("--older-than", "0d")
    with pytest.raises(InvalidArgument, match="from 0s to 9999d"):
        parse_option("--older-than", "9999d1h")
    assert [shown(timedelta(seconds=n)) for n in (90, 3600, 86_400)] == ["90s", "1h", "1d"]
