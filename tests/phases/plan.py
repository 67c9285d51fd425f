# SPDX-License-Identifier: Apache-2.0
"""The phases that `./task test` runs, as data. Pure but for what `bare` reads of the tests.

Read by `tests.phases.__main__`. A phase is one command; phases of one stage run at the same time,
and stages run in order, whatever the outcome of earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.phases import bare

MINUTE = 60.0
ROOT = Path(__file__).parents[2]
_HERE = "not lab and not registry and not fuzz and not endurance"
FAST = f"not vm and not slow and not net and {_HERE}"
MACHINES = f"(vm or slow or net) and {_HERE}"
BASIC_IMAGES = ("python", "node", "shell")
"""What the main job needs. To build the image data takes 96 s of CPU time more."""
IMAGES = (*BASIC_IMAGES, "data")
MAIN_JOB = "tests/e2e/test_main_job.py"
REPETITIONS = ("--turns=5", "--copies=51")
"""Fewer boots, of 2 s of CPU time each, and copies, of 1 s, than `./task endurance` makes in the
same tests; 50 copies are made at once in both. The lab, too, has five turns at one port."""
CHECKS = ("format", "lint", "imports", "words", "types")


@dataclass(frozen=True, slots=True)
class Phase:
    """A command with a deadline in seconds. `counts`: it is pytest, and its results are counted."""

    name: str
    argv: tuple[str, ...]
    seconds: float = 10 * MINUTE
    counts: bool = False

    @property
    def has_workers(self) -> bool:
        """Whether tests run at the same time, so that failed ones run again alone."""
        return "-n" in self.argv

    def again(self) -> tuple[str, ...]:
        """Return the command that runs failed tests again, one at a time. Only for pytest."""
        kept = _without_workers(self.argv)
        return (*kept, "--last-failed", "--last-failed-no-failures=none")


Stage = tuple[Phase, ...]
Extent = Literal["all", "quick", "verify", "check"]


def plan(extent: Extent = "all", *, checked: bool = False, same: bool = False) -> tuple[Stage, ...]:
    """Return the stages. `quick` leaves out all slow tests but the main job.

    `checked` leaves out the checks, which say nothing about a machine; with `same`, also the fast
    tests that say nothing about it, since they passed elsewhere on the same version of Python.
    """
    stages = _stages(extent, bare.selection(ROOT) if checked and same else ())
    left = (tuple(p for p in s if not (checked and p.name in CHECKS)) for s in stages)
    return tuple(stage for stage in left if stage)


def _stages(extent: Extent, places: Sequence[str]) -> tuple[Stage, ...]:
    """Return all stages; fast tests are those of `places`, or all."""
    setup = Phase("setup", ("waggle", "setup", "--yes", "--tests"), 20 * MINUTE)
    checks = (
        Phase("format", ("ruff", "format", "--check", ".")),
        Phase("lint", ("ruff", "check", ".")),
        Phase("imports", ("lint-imports",)),
        Phase("words", ("python", "-m", "tests.phases.words")),
        Phase("types", ("pyright", "--threads", "2")),  # 63 s; with one: 210 s
    )
    # Four workers on two cores, since many tests wait (136 s; with three: 155 s). An idle worker
    # takes another's tests.
    stealing = ("--dist=worksteal", "--durations=15", *places)
    fast = (_tests("tests without machines", FAST, 30 * MINUTE, workers=4, more=stealing),)
    made = (
        _images(IMAGES),
        Phase("lab's parts", ("python", "-m", "lab", "--prepare"), 30 * MINUTE),
        Phase("other clients", ("python", "-m", "tests.support.tools"), 20 * MINUTE),
    )
    # The tests of a module share machines, so one worker runs them all. Modules with the longest
    # tests come first (tests/conftest.py); xdist would take those with the most tests first, and
    # leave one worker idle for minutes in the end.
    # Three workers on two cores: two left 16 to 30 % of both idle, since a test waits for its
    # machine or a limit half of the time. Each takes up to 1.5 GiB with its machines.
    together = ("--dist=loadfile", "--no-loadscope-reorder", "--durations=15", *REPETITIONS)
    machines = (_tests("tests with machines", MACHINES, 60 * MINUTE, workers=3, more=together),)
    match extent:
        case "check":
            return (checks,)
        case "verify":
            return checks, fast
        case "quick":
            return (setup,), checks, fast, (_images(BASIC_IMAGES),), (_main_job(),)
        case "all":
            lab = (_tests("lab", "lab", 70 * MINUTE),)
            # What is made waits for networks and for one linker, and the checks compute meanwhile.
            return (setup,), (*checks, *made), fast, machines, lab


def _tests(
    name: str, marks: str, seconds: float, *, workers: int = 0, more: Sequence[str] = ()
) -> Phase:
    parallel = ("-n", str(workers)) if workers else ()
    return Phase(name, ("pytest", "-q", "-m", marks, *parallel, *more), seconds, counts=True)


def _images(names: Sequence[str]) -> Phase:
    return Phase("images", ("waggle", "image", "build", "--missing", *names), 20 * MINUTE)


def _main_job() -> Phase:
    return Phase("main job", ("pytest", "-q", MAIN_JOB), 20 * MINUTE, counts=True)


def _without_workers(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the same pytest command without xdist's options."""
    kept = [word for word in argv if not word.startswith("--dist")]
    if "-n" in kept:
        at = kept.index("-n")
        del kept[at : at + 2]
    return tuple(kept)
