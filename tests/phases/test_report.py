# SPDX-License-Identifier: Apache-2.0
"""The summary of a run: passed, failed and skipped tests with reasons, and the worst exit code."""

from __future__ import annotations

from pathlib import Path

from tests.phases.report import LATE, Counts, Outcome, exit_code, read_junit, summary

JUNIT = """\
<testsuites><testsuite>
<testcase classname="tests.a" name="good" time="1.5"/>
<testcase classname="tests.a.TestMore" name="bad" time="2.5"><failure message="no"/></testcase>
<testcase classname="tests.a" name="broken"><error message="no fixture"/></testcase>
<testcase classname="tests.b" name="left"><skipped message="NOT TESTED:
 no KVM"/></testcase>
</testsuite></testsuites>
"""


def test_pytests_junit_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(JUNIT)
    assert read_junit(report) == Counts(
        1,
        ("tests.a.TestMore::bad", "tests.a::broken"),
        ("NOT TESTED: no KVM",),
        ((4.0, "tests.a"), (0.0, "tests.b")),
    )


def test_a_report_that_is_missing_or_cut_counts_nothing(tmp_path: Path) -> None:
    assert read_junit(tmp_path / "none.xml") is None
    (tmp_path / "cut.xml").write_text(JUNIT[:80])
    assert read_junit(tmp_path / "cut.xml") is None


def test_the_exit_code_is_that_of_the_worst_phase() -> None:
    good, bad, late = (Outcome("x", code, 1) for code in (0, 1, LATE))
    assert exit_code([good, good]) == 0
    assert exit_code([good, bad, good]) == 1
    assert exit_code([bad, late, good]) == LATE
    assert exit_code([Outcome("killed", -9, 1)]) == 9
    assert exit_code([]) == 1


def test_slow_modules_are_named_the_slowest_first() -> None:
    counts = Counts(3, modules=((19.0, "quick"), (30.4, "slow"), (200.0, "slowest")))
    line = "slowest in machines, seconds of each module: slowest 200, slow 30"
    assert line in summary([Outcome("machines", 0, 900, counts)]).splitlines()


def test_each_phase_has_a_row_and_skips_are_counted_by_reason() -> None:
    text = summary(
        [
            Outcome("lint", 0, 12.4),
            Outcome("fast", 1, 100, Counts(40, ("a::b",), ("no KVM", "no KVM", "no IPv6"))),
            Outcome("machines", 0, 900, Counts(5), again=("c::d",)),
            Outcome("lab", LATE, 4000),
        ]
    )
    lines = text.splitlines()
    assert "lint           12  passed" in lines
    assert "fast          100  FAILED (1)    40 passed, 1 failed, 3 skipped" in lines
    assert "machines      900  passed again  5 passed, 0 failed, 0 skipped" in lines
    assert "lab          4000  LATE" in lines
    assert "FAILED in fast: a::b" in lines
    assert "FAILED at first in machines, passed when run again alone: c::d" in lines
    assert "skipped in fast, 2: no KVM" in lines
    assert "skipped in fast, 1: no IPv6" in lines
    # A failed phase without test counts is one failure, so the last line includes it.
    assert lines[-1] == "45 passed, 2 failed, 3 skipped"
