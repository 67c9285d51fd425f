# SPDX-License-Identifier: Apache-2.0
"""How long a retry waits, and when retrying stops."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import RegistryBusy
from waggle.infra.oci.registry.endpoints import Transient, pause, retry_after, retrying
from waggle.infra.oci.registry.options import Ambient, RegistryOptions

NOW = 1_700_000_000.0
OPTIONS = RegistryOptions()


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("", 0),
        ("0", 0),
        (" 120 ", 120),
        (email.utils.formatdate(NOW + 30, usegmt=True), 30),
        (email.utils.formatdate(NOW - 30, usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799 - NOW),
        ("soon", 0),
        ("-5", 0),
        ("1e9", 0),
        ("9" * 500, 0),
        ("٣", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_not_negative(value: str) -> None:
    assert retry_after(value, NOW) >= 0


@given(st.integers(1, 10_000), st.floats(0, 1e12), st.floats(0, 1))
def test_pauses_grow_and_are_bounded(failures: int, wait: float, chance: float) -> None:
    seconds = pause(failures, wait, chance, OPTIONS)
    assert 0.25 <= seconds <= OPTIONS.longest_pause
    assert seconds >= min(wait, OPTIONS.longest_pause)
    assert pause(failures + 1, wait, chance, OPTIONS) >= seconds


@pytest.mark.anyio
async def test_consecutive_failures_are_counted_and_progress_resets_the_count() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def work() -> None:
        raise Transient("it broke")

    ambient = Ambient(sleep=sleep, chance=lambda: 1.0)
    with pytest.raises(RegistryBusy, match="it broke"):
        await retrying(work, OPTIONS, ambient)
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    pauses.clear()
    progress = iter([True, False, True, False])
    with pytest.raises(RegistryBusy):
        await retrying(work, OPTIONS, ambient, lambda: next(progress, False))
    assert pauses == [0.5, 1.0, 0.5, 1.0, 2.0, 4.0]
