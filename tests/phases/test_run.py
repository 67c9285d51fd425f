# SPDX-License-Identifier: Apache-2.0
"""Real phases: none waits for another to succeed, late ones end, and failures run again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.phases.__main__ import ROOT, run
from tests.phases.plan import BASIC_IMAGES, CHECKS, MAIN_JOB, Extent, Phase, plan
from tests.phases.report import LATE, Outcome

EXTENTS: tuple[Extent, ...] = ("check", "verify", "quick", "all")
MARKS: tuple[str, ...] = ("vm", "slow", "net", "lab", "registry", "fuzz", "endurance")
ALONE = ("registry", "fuzz", "endurance")
FLAKY = """
from pathlib import Path

def test_fails_the_first_time() -> None:
    marker = Path(__file__).with_name("ran")
    ran = marker.exists()
    marker.touch()
    assert ran

def test_is_fine() -> None:
    pass

def test_always_fails() -> None:
    raise AssertionError
"""


def outcomes(*stages: tuple[Phase, ...]) -> list[Outcome]:
    return asyncio.run(run(stages))


def shell(name: str, script: str, seconds: float = 30) -> Phase:
    return Phase(name, ("sh", "-c", script), seconds)


def pytest_of(directory: Path, *workers: str) -> Phase:
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_flaky.py").write_text(FLAKY)
    argv = ("pytest", "-q", "-c", str(directory / "pytest.ini"), str(directory), *workers)
    return Phase("some tests", argv, 60, counts=True)


def test_every_phase_runs_even_after_a_failure() -> None:
    found = outcomes(
        (shell("bad", "exit 3"),),
        (shell("one", "true"), shell("two", "exit 1")),
        (Phase("none", ("no-such-program",)),),
        (shell("last", "true"),),
    )
    assert [(outcome.name, outcome.code) for outcome in found] == [
        *(("bad", 3), ("one", 0), ("two", 1), ("none", 127), ("last", 0))
    ]


def test_a_late_phase_is_ended_and_reported_as_late() -> None:
    (late, after) = outcomes((shell("slow", "exec sleep 1000", 0.2),), (shell("after", "true"),))
    assert (late.code, after.code) == (LATE, 0)
    assert late.seconds < 30


def test_failed_tests_run_again_alone_and_fail_if_they_fail_twice(tmp_path: Path) -> None:
    (outcome,) = outcomes((pytest_of(tmp_path, "-n", "1"),))
    assert outcome.code == 1
    assert outcome.counts is not None
    assert outcome.counts.passed == 2
    assert [name.rpartition("::")[2] for name in outcome.counts.failed] == ["test_always_fails"]
    assert [name.rpartition("::")[2] for name in outcome.again] == ["test_fails_the_first_time"]


def test_a_failure_without_workers_is_final(tmp_path: Path) -> None:
    (outcome,) = outcomes((pytest_of(tmp_path),))
    assert outcome.code == 1
    assert outcome.counts is not None
    assert (len(outcome.counts.failed), outcome.again) == (2, ())


def test_an_interruption_ends_the_phase_and_keeps_earlier_results(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from tests.phases.__main__ import run
        from tests.phases.plan import Phase
        wait = "echo $$ > pid; exec sleep 1000"
        stages = [(Phase("first", ("true",)),), (Phase("waits", ("sh", "-c", "cd '%s'; " + wait)),)]
        print([(o.name, o.code) for o in asyncio.run(run(stages))])
    """)
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [sys.executable, "-c", program % tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        pid = int(fifo.read_text())
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "[('first', 0), ('interrupted', 130)]"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_only_with_another_python_do_all_fast_tests_run_again() -> None:
    def fast(*, same: bool) -> list[str]:
        (phase,) = plan("quick", checked=True, same=same)[1]
        assert phase.name == "tests without machines"
        return [word for word in phase.argv if word.startswith("tests/")]

    assert fast(same=False) == []
    assert "tests/infra/host" in fast(same=True)


def test_a_quick_run_builds_no_image_that_its_main_job_does_not_use() -> None:
    (quick, whole) = (
        next(phase for stage in plan(extent) for phase in stage if phase.name == "images")
        for extent in ("quick", "all")
    )
    names = ", ".join(f'"{name}"' for name in BASIC_IMAGES)
    assert f"\nRUNTIMES = ({names})\n" in (ROOT / MAIN_JOB).read_text()
    assert quick.argv[-len(BASIC_IMAGES) :] == BASIC_IMAGES
    assert set(whole.argv) - set(quick.argv) == {"data"}


@pytest.mark.parametrize("extent", EXTENTS)
def test_names_are_unique_and_every_phase_has_a_deadline(extent: Extent) -> None:
    phases = [phase for stage in plan(extent) for phase in stage]
    assert len({phase.name for phase in phases}) == len(phases)
    assert all(0 < phase.seconds <= 90 * 60 for phase in phases)


def test_a_commit_that_was_checked_is_only_tested() -> None:
    for extent in EXTENTS:
        phases = [phase for stage in plan(extent) for phase in stage]
        left = [phase for stage in plan(extent, checked=True) for phase in stage]
        assert [phase.name for phase in phases if phase not in left] == list(CHECKS)
        assert all(plan(extent, checked=True))


def test_every_test_belongs_to_exactly_one_phase() -> None:
    """Checks only phases that count tests by marks; the main job is selected by its file.

    Tests with the marks in ALONE take too long; tasks with the same names run them.
    """
    phases = [phase for stage in plan() for phase in stage if phase.counts]
    expressions = [phase.argv[phase.argv.index("-m") + 1] for phase in phases]
    for has in itertools.product([True, False], repeat=len(MARKS)):
        marks = dict(zip(MARKS, has, strict=True))
        found = [eval(e, {}, marks) for e in expressions].count(True)  # noqa: S307
        wanted = 0 if any(marks[each] for each in ALONE) and not marks["lab"] else 1
        assert found == wanted, marks
