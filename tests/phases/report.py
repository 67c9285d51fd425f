# SPDX-License-Identifier: Apache-2.0
"""The results of a run of phases, as text and as an exit code. Pure.

Called by `tests.phases.__main__` with every phase's exit code, time and, for pytest, JUnit report.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

LATE = 124
"""The exit code of a phase that was ended at its deadline, as in coreutils' timeout."""
NO_TESTS = 5
_LONGEST_REASON = 300
_SLOWEST = 30
_WORTH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of passed tests, the names of failed ones, and the reasons of skipped ones."""

    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """One reason per skipped test."""
    modules: tuple[tuple[float, str], ...] = ()
    """The seconds of all tests of each module."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one phase ended."""

    name: str
    code: int
    seconds: float
    counts: Counts | None = None
    again: tuple[str, ...] = field(default=())
    """The tests that failed at first and passed when they ran again, alone."""

    @property
    def word(self) -> str:
        """The result in a word or two."""
        if self.code == 0:
            return "passed again" if self.again else "passed"
        return "LATE" if self.code == LATE else f"FAILED ({self.code})"


def read_junit(path: Path) -> Counts | None:
    """Count the results in pytest's JUnit report. Returns None if there is no readable report."""
    try:
        root = ET.parse(path).getroot()  # noqa: S314 (pytest has just written it)
    except (OSError, ET.ParseError):
        return None
    failed: list[str] = []
    skipped: list[str] = []
    passed = 0
    modules: defaultdict[str, float] = defaultdict(float)
    for case in root.iter("testcase"):
        place = case.get("classname", "")
        name = f"{place}::{case.get('name', '')}"
        modules[place.partition(".Test")[0]] += float(case.get("time", "0"))
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif skip is not None:
            skipped.append(" ".join((skip.get("message") or "no reason given").split()))
        else:
            passed += 1
    times = tuple((seconds, module) for module, seconds in modules.items())
    return Counts(passed, tuple(failed), tuple(skipped), times)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of the worst phase, or 1 if nothing ran."""
    return max((abs(outcome.code) for outcome in outcomes), default=1)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Format the table of phases, failures, reasons for skipped tests, slow modules, and totals."""
    wide = max((len(outcome.name) for outcome in outcomes), default=0)
    lines = ["", f"{'phase':{wide}}  {'seconds':>7}  result"]
    lines += [_row(outcome, wide) for outcome in outcomes]
    for outcome in outcomes:
        lines += _details(outcome)
    counted = [outcome.counts for outcome in outcomes if outcome.counts]
    passed = sum(counts.passed for counts in counted)
    failed = sum(len(counts.failed) for counts in counted)
    skipped = sum(len(counts.skipped) for counts in counted)
    failed += sum(1 for outcome in outcomes if outcome.code and not outcome.counts)
    return "\n".join([*lines, "", f"{passed} passed, {failed} failed, {skipped} skipped"])


def _row(outcome: Outcome, wide: int) -> str:
    row = f"{outcome.name:{wide}}  {outcome.seconds:7.0f}  {outcome.word:12}"
    if counts := outcome.counts:
        row += f"  {counts.passed} passed, {len(counts.failed)} failed"
        row += f", {len(counts.skipped)} skipped"
    return row.rstrip()


def _details(outcome: Outcome) -> list[str]:
    counts = outcome.counts or Counts()
    lines = [f"FAILED in {outcome.name}: {name}" for name in counts.failed]
    lines += [
        f"FAILED at first in {outcome.name}, passed when run again alone: {name}"
        for name in outcome.again
    ]
    for reason, number in Counter(counts.skipped).most_common():
        lines.append(f"skipped in {outcome.name}, {number}: {reason[:_LONGEST_REASON]}")
    slow = sorted((each for each in counts.modules if each[0] >= _WORTH_SECONDS), reverse=True)
    if slow:
        words = ", ".join(f"{module} {seconds:.0f}" for seconds, module in slow[:_SLOWEST])
        lines.append(f"slowest in {outcome.name}, seconds of each module: {words}")
    return lines
