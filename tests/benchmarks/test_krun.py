# SPDX-License-Identifier: Apache-2.0
"""krun's comparisons as rows of the table; measuring needs the lab, see docs/lab.md."""

from __future__ import annotations

from benchmarks.figures import compare
from benchmarks.krun import results
from benchmarks.table import rows


def test_every_comparison_becomes_a_row() -> None:
    compared = {
        "banner": compare([2.0, 2.2], [2.0, 2.0]),
        "memory": compare([6e6], [8e6]),
        "first-result": compare([7.0], [14.0]),
    }
    found = {result.key: result for result in results(compared, "in the lab")}
    assert found.keys() == {row.key for row in rows("krun")}
    assert found["krun-memory"].ours == "6.0 MB"
    assert found["krun-memory"].value == 0.75
    assert found["krun-first-result"].ours == "7.00 s"
    assert found["krun-banner"].how.startswith("in the lab, 2 rounds")
