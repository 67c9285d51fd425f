# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory information, and the outlook for warm machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.host.memory import Memory, Outlook, outlook, parse_memory, read_memory

GIB = 1 << 30
MEMINFO = "MemTotal:       1048576 kB\nMemFree:  5 kB\nMemAvailable:     524288 kB\nHugePages: 0\n"
PRESSURE = (
    "some avg10=1.50 avg60=9.00 avg300=8.00 total=7\nfull avg10=0.25 avg60=6.00 avg300=5.00 total=4"
)


def test_kernel_files_are_parsed() -> None:
    assert parse_memory(MEMINFO, PRESSURE) == Memory(GIB, GIB // 2, some=1.5, full=0.25)


def test_a_kernel_without_pressure_information_counts_as_free_of_pressure() -> None:
    assert parse_memory(MEMINFO) == Memory(GIB, GIB // 2)


@given(st.text(max_size=200))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="There is no Mem"):
        parse_memory(text)


def test_this_host_has_memory() -> None:
    memory = read_memory()
    assert 0 < memory.available <= memory.total


@pytest.mark.parametrize(
    "memory,expected",
    [
        (Memory(10 * GIB, 5 * GIB), Outlook.FILL),
        (Memory(10 * GIB, int(2.5 * GIB)), Outlook.FILL),
        (Memory(10 * GIB, int(2.4 * GIB)), Outlook.HOLD),
        (Memory(10 * GIB, GIB), Outlook.HOLD),
        (Memory(10 * GIB, GIB - 1), Outlook.DRAIN),
        (Memory(10 * GIB, 9 * GIB, some=5.0), Outlook.HOLD),
        (Memory(10 * GIB, 9 * GIB, some=90.0, full=4.9), Outlook.HOLD),
        (Memory(10 * GIB, 9 * GIB, some=90.0, full=5.0), Outlook.DRAIN),
    ],
)
def test_warm_machines_yield_to_working_ones(memory: Memory, expected: Outlook) -> None:
    assert outlook(memory, GIB) is expected
