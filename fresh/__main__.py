# SPDX-License-Identifier: Apache-2.0
"""`python -m fresh [bookworm|trixie]`, or `./task fresh`: the README's commands on a bare machine.

Makes a bare root (mmdebstrap's minbase with git, python3 and ca-certificates), gives it this
machine's package configuration and nothing else, and runs there what a newcomer types, from a clean
clone of HEAD. Exit code 1 when a step failed, 2 when the root could not be made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fresh import configuration, root
from fresh.beside import beside
from fresh.plan import SUITES, Machine, plan
from waggle.domain.errors import SetupIncomplete

PREPARE_SECONDS = 600.0
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    machine: str
    step: str
    code: int
    seconds: float


def say(text: str) -> None:
    """Print one line between the output of the steps."""
    print(f"fresh: {text}", flush=True)


def run(
    suite: str, machines: Sequence[Machine], make: Callable[[str, Path], None] = root.make
) -> list[Outcome]:
    """Make the bare root, run the steps and return the outcomes. Raises SetupIncomplete.

    `make` makes the root of a suite at a path that does not exist.
    """
    found: dict[int, list[Outcome]] = {}
    with root.workplace() as place:
        began = time.monotonic()
        say(f"making a bare root of {suite} in {place}")
        settings = configuration.read(suite, os.environ)
        bare = place / "bare"
        make(suite, bare)
        root.configure(bare, settings)
        say(f"it is there after {time.monotonic() - began:.0f} s")

        def use(number: int) -> None:
            found[number] = _outcomes(bare, place / f"machine-{number}", machines[number], settings)

        with contextlib.ExitStack() as others:
            for number, machine in enumerate(machines):
                if machine.beside and machine is not machines[-1]:
                    others.enter_context(beside(partial(use, number)))
                else:
                    use(number)
    return [outcome for _, several in sorted(found.items()) for outcome in several]


def _outcomes(
    bare: Path, tree: Path, machine: Machine, settings: configuration.Configuration
) -> list[Outcome]:
    """Use a machine, a copy of the bare root that is removed again."""
    try:
        root.copy(bare, tree)
        found = _use(tree, machine, settings)
        root.run(["rm", "-rf", "--one-file-system", str(tree)])
    except SetupIncomplete as error:
        say(f"{machine.name}: {error.message} {error.hint}".rstrip())
        return [Outcome(machine.name, "prepare", 2, 0)]
    return found


def _use(tree: Path, machine: Machine, settings: configuration.Configuration) -> list[Outcome]:
    """Prepare a machine and run its steps. Raises SetupIncomplete if it cannot be prepared."""
    if machine.prepare:
        code = root.run_in(tree, root.ROOT, machine.prepare, settings.variables, PREPARE_SECONDS)
        if code:
            raise SetupIncomplete(f"It could not be prepared ({code}).", hint="See above.")
    bring = root.build_wheel if machine.without_checkout else root.clone
    bring(CHECKOUT, tree, machine.user)
    outcomes: list[Outcome] = []
    for step in machine.steps:
        say(f"{machine.name}: {step.command}")
        began = time.monotonic()
        code = root.run_in(tree, machine.user, step.command, settings.variables, step.seconds)
        outcomes.append(Outcome(machine.name, step.name, code, time.monotonic() - began))
    return outcomes


def summary(suite: str, outcomes: Sequence[Outcome]) -> str:
    """Format a row for each step, and a line of totals. Pure."""
    rows = [
        f"{outcome.machine + ': ' + outcome.step:32} {outcome.seconds:6.0f} s  "
        + ("passed" if outcome.code == 0 else f"FAILED ({outcome.code})")
        for outcome in outcomes
    ]
    failed = sum(outcome.code != 0 for outcome in outcomes)
    total = f"fresh: {len(outcomes) - failed} passed, {failed} failed"
    return "\n".join(["", f"On a bare {suite}:", *rows, "", total])


def main(words: Sequence[str]) -> int:
    """Parse the arguments, run, report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="./task fresh", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=SUITES, default=SUITES[0])
    parser.add_argument("--quick", action="store_true", help="the tests of './task test --quick'")
    parser.add_argument("--only", action="append", metavar="MACHINE", help="of fresh/plan.py")
    options = parser.parse_args(words)
    machines = plan(options.suite, quick=options.quick)
    names = [machine.name for machine in machines]
    only: list[str] = options.only or names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"there is no machine {', '.join(unknown)}; there are {', '.join(names)}")
    if os.geteuid() != 0:
        say("only root can make and enter a bare root: run this as root")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    status = ["git", "status", "--short"]
    if subprocess.run(status, cwd=CHECKOUT, capture_output=True, check=False).stdout:
        say("what is not committed is not tried")
    try:
        outcomes = run(options.suite, [machine for machine in machines if machine.name in only])
    except SetupIncomplete as error:
        say(f"{error.message} {error.hint}".rstrip())
        return 2
    except KeyboardInterrupt:
        say("interrupted; nothing is left")
        return 130
    print(summary(options.suite, outcomes), flush=True)
    return 1 if any(outcome.code for outcome in outcomes) else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
