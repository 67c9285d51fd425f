# SPDX-License-Identifier: Apache-2.0
"""A server raises its limit of open files as far as it may, and continues where it may not."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from waggle.infra.host.process import MOST, limits, raise_limit, reachable

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    "soft, hard, expected",
    [
        (1024, 4096, 4096),
        (1024, 1024, 1024),
        (1024, NONE, MOST),
        (1024, 1 << 30, MOST),
        (MOST * 2, 1 << 30, MOST * 2),
        (NONE, NONE, NONE),
    ],
)
def test_the_reachable_limit_is_bounded(soft: int, hard: int, expected: int) -> None:
    assert reachable(soft, hard) == expected


def test_the_limit_is_really_raised() -> None:
    program = (
        "import resource; from waggle.infra.host.process import limits, raise_limit;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200));"
        "print(raise_limit(), *limits())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["200", "200", "200"]


def test_a_refused_raise_leaves_the_limit_unchanged() -> None:
    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    before = limits()
    assert raise_limit(refuse) in (before[0], reachable(*before))
    assert limits() == before
