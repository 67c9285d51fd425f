# SPDX-License-Identifier: Apache-2.0
"""Run every phase, then report all results: `python -m tests.phases`, `./task test|verify|check`.

No phase waits for another to succeed. Tests that fail in a phase with several workers run once more
alone, since tests can miss deadlines if two of them and other work share two cores; a test that
fails twice has failed. Ctrl-C ends the current phase and prints the results so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from tests.phases.plan import ROOT, Extent, Phase, Stage, plan
from tests.phases.report import LATE, Counts, Outcome, exit_code, read_junit, summary

GRACE_SECONDS = 30.0
INTERRUPTED = 130
EXTENTS: dict[Extent, str] = {
    "quick": "all checks, all fast tests, and of the others the main job",
    "verify": "all checks and all tests without machines",
    "check": "format, lint, types and import rules",
}
_TESTS_FAILED = 1
_NO_SUCH_PROGRAM = 127


def say(text: str) -> None:
    """Print one line between the output of the phases."""
    print(text, flush=True)


async def run(stages: Sequence[Stage]) -> list[Outcome]:
    """Run all stages in turn and return the phases' outcomes, up to an interruption."""
    outcomes: list[Outcome] = []
    task = asyncio.current_task()
    assert task is not None
    _cancel_once(task)
    with tempfile.TemporaryDirectory(prefix="waggle-phases-") as work:
        try:
            for stage in stages:
                outcomes += await _stage(stage, Path(work))
        except asyncio.CancelledError:
            outcomes.append(Outcome("interrupted", INTERRUPTED, 0))
    return outcomes


def _cancel_once(task: asyncio.Task[list[Outcome]]) -> None:
    """Cancel the task at the first signal; later signals would interrupt its cleanup."""
    cancelled = False

    def cancel() -> None:
        nonlocal cancelled
        if not cancelled:
            cancelled = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, cancel)


async def _stage(stage: Stage, work: Path) -> list[Outcome]:
    """Run the phases of a stage: one alone prints as it runs, several print when they end."""
    if len(stage) == 1:
        return [await _phase(stage[0], work, None)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_captured(phase, work)) for phase in stage]
    return [task.result() for task in tasks]


async def _captured(phase: Phase, work: Path) -> Outcome:
    with tempfile.TemporaryFile(dir=work) as out:
        try:
            return await _phase(phase, work, out)
        finally:
            out.seek(0)
            said = out.read().decode("utf-8", "replace").rstrip()
            say(f"== {phase.name} said:\n{said}" if said else f"== {phase.name} said nothing")


async def _phase(phase: Phase, work: Path, out: IO[bytes] | None) -> Outcome:
    say(f"== {phase.name}: {' '.join(phase.argv)}")
    began = time.monotonic()
    code, counts = await _run(phase.argv, phase, work, out)
    again: tuple[str, ...] = ()
    if phase.has_workers and code == _TESTS_FAILED and counts:
        say(f"== {phase.name}: FAILED, and runs again alone: {', '.join(counts.failed)}")
        code, second = await _run(phase.again(), phase, work, out)
        still = second.failed if second else counts.failed
        again = tuple(name for name in counts.failed if name not in still)
        counts = replace(counts, passed=counts.passed + len(again), failed=still)
    return Outcome(phase.name, code, time.monotonic() - began, counts, again)


async def _run(
    argv: Sequence[str], phase: Phase, work: Path, out: IO[bytes] | None
) -> tuple[int, Counts | None]:
    """Run a command of a phase and return its exit code and pytest's counts."""
    if not phase.counts:
        return await _command(argv, phase.seconds, out), None
    report = work / f"{phase.name}.xml"
    report.unlink(missing_ok=True)
    code = await _command([*argv, f"--junitxml={report}"], phase.seconds, out)
    return code, read_junit(report)


async def _command(argv: Sequence[str], seconds: float, out: IO[bytes] | None) -> int:
    """Run a program in this terminal's process group, so that Ctrl-C also reaches it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=ROOT,
            env=_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    except OSError as error:
        say(f"{argv[0]} cannot be started: {error.strerror}")
        return _NO_SUCH_PROGRAM
    try:
        async with asyncio.timeout(seconds):
            return await process.wait()
    except TimeoutError:
        say(f"{argv[0]} did not end within {seconds:.0f} s")
        return LATE
    finally:
        await _end(process)


def _environment() -> dict[str, str]:
    """Return this process's environment, with its virtual environment's programs first in PATH."""
    programs = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


async def _end(process: Process) -> None:
    """Let a process clean up, then kill it. Does nothing if it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await process.wait()


def main(words: Sequence[str]) -> int:
    """Run the phases, print the summary and return the worst exit code."""
    parser = argparse.ArgumentParser(prog="./task test", description="Run all checks and tests.")
    extents = parser.add_mutually_exclusive_group()
    for extent, covers in EXTENTS.items():
        option = f"--{extent}"
        extents.add_argument(option, dest="extent", action="store_const", const=extent, help=covers)
    parser.add_argument(
        "--checked",
        metavar="PYTHON",
        help="leave out what says nothing about a machine: it passed elsewhere, with this Python",
    )
    options = parser.parse_args(words)
    same = options.checked == f"{sys.version_info[0]}.{sys.version_info[1]}"
    stages = plan(options.extent or "all", checked=options.checked is not None, same=same)
    outcomes = asyncio.run(run(stages))
    say(summary(outcomes))
    return exit_code(outcomes)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
