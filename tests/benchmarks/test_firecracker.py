# SPDX-License-Identifier: Apache-2.0
"""Firecracker's comparisons as rows of the table; measuring needs KVM or the lab."""

from __future__ import annotations

from benchmarks.firecracker import results
from benchmarks.table import rows


def test_every_comparison_becomes_a_row() -> None:
    seconds = {"ours": [1.0, 1.2], "theirs": [2.0, 2.0]}
    keys = ("template", "cold", "restore", "pause", "resume")
    report = {
        **dict.fromkeys(keys, seconds),
        "memory": {"ours": [6e6, 7e6, 5e6], "theirs": [12e6, 12e6, 12e6]},
        "lost": {"ours": [1.0], "theirs": [20.0]},
    }
    found = {result.key: result for result in results(report, "in the lab")}
    assert found.keys() == {row.key for row in rows("firecracker")}
    assert found["firecracker-template"].value == 0.55
    assert found["firecracker-template"].how.startswith("in the lab, 2 rounds")
    assert (found["firecracker-memory"].ours, found["firecracker-memory"].value) == ("6.0 MB", 0.5)
    assert found["firecracker-lost"].value == 1
    assert found["firecracker-lost"].how == "in the lab, of 20"
