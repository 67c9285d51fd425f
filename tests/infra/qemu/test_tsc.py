# SPDX-License-Identifier: Apache-2.0
"""The frequency of the time stamp counter, measured against the clock that it drives."""

from __future__ import annotations

import pytest

from waggle.infra.qemu import frozen


def test_two_measurements_agree() -> None:
    """They agree to one part in a thousand: 4 s in an hour, on a host that counts steps in µs."""
    first = frozen.tsc_khz.__wrapped__()
    if first is None:
        pytest.skip("NOT TESTED: this processor's counter is not steady")
    again = frozen.tsc_khz.__wrapped__()
    assert again is not None
    assert again == pytest.approx(first, rel=1e-3)
    assert 500_000 < first < 10_000_000


@pytest.mark.parametrize(
    "flags, steady",
    [
        ("flags\t\t: fpu tsc constant_tsc nonstop_tsc", True),
        ("flags\t\t: fpu tsc constant_tsc", False),
        ("Features\t: fp asimd", False),
        ("", False),
    ],
)
def test_a_counter_that_may_stop_or_change_is_not_used(flags: str, steady: bool) -> None:
    cpuinfo = f"processor\t: 0\n{flags}\n\nprocessor\t: 1\n"
    assert frozen._is_steady(cpuinfo) is steady  # pyright: ignore[reportPrivateUsage]  # its decision
