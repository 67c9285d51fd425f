# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory information, and the outlook for warm machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.host.memory import (
    Memory,
    Outlook,
    outlook,
    parse_group,
    parse_memory,
    read_memory,
)

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


def test_the_file_cache_of_a_group_is_available() -> None:
    assert parse_group("100\n", "90\n", "anon 30\ninactive_file 60\n") == Memory(100, 70)
    assert parse_group("100\n", "120\n", "") == Memory(100, 0), "it may be over its limit"
    assert parse_group("max\n", "90\n", "") is None


@pytest.mark.parametrize(
    "limits,expected",
    [
        ({}, Memory(GIB, GIB // 2, some=1.5, full=0.25)),
        ({"": GIB // 4}, Memory(GIB // 4, GIB // 4 - 5, some=1.5, full=0.25)),
        ({"waggle": 50, "": GIB}, Memory(50, 45, some=1.5, full=0.25)),
        ({"waggle/server": 9, "waggle": 50}, Memory(9, 4, some=1.5, full=0.25)),
        ({"waggle": GIB}, Memory(GIB, GIB // 2, some=1.5, full=0.25)),
    ],
)
def test_the_least_that_a_limit_leaves_is_what_there_is(
    tmp_path: Path, limits: dict[str, int], expected: Memory
) -> None:
    """A server in a container, or in a unit with MemoryMax, has less than its host."""
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    for name, text in {
        "meminfo": MEMINFO,
        "pressure/memory": PRESSURE,
        "self/mountinfo": f"1 0 0:1 / {mount} rw - cgroup2 cgroup rw\n",
        "self/cgroup": "0::/waggle/server\n",
    }.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(text)
    (mount / "waggle/server").mkdir(parents=True)
    for name in ("waggle/server", "waggle"):
        (mount / name / "memory.max").write_text(f"{limits.get(name, 'max')}\n")
    if "" in limits:  # the top group of a container; that of a host has no such file
        (mount / "memory.max").write_text(f"{limits['']}\n")
    for group in (mount, mount / "waggle", mount / "waggle/server"):
        (group / "memory.current").write_text("5\n")
        (group / "memory.stat").write_text("inactive_file 0\n")
    assert read_memory(proc) == expected


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
