# SPDX-License-Identifier: Apache-2.0
"""The lab: libkrun for real, inside an emulated AMD machine: `python -m lab` or `./task lab`.

`--check` reports whether this machine can run it; `--shell-command` runs another command inside;
`--only NAME` runs some of the jobs in lab/jobs.py. Exit code 1 if a job failed, 2 if the lab could
not be made; with `--shell-command`, that of the command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

from lab import libkrun, session
from lab.check import judge, lab_store, look
from lab.display import Display
from lab.jobs import Job, jobs_with, program
from lab.store import Store
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import WaggleError

SHELL = "shell"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line. Exits if it is wrong."""
    parser = argparse.ArgumentParser(prog="lab", description="Run libkrun for real.")
    known = [job.name for job in jobs_with(program())]
    names = ", ".join(known)
    parser.add_argument("--check", action="store_true", help="only say whether it can run here")
    parser.add_argument(
        "--prepare", action="store_true", help="make what takes long, if it can run here, and end"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help=f"of: {names}")
    parser.add_argument("--shell-command", metavar="CMD", help="run this inside and nothing else")
    parser.add_argument("--seconds", type=float, default=900.0, help="deadline of that command")
    parser.add_argument("--reports", type=Path, default=session.REPORTS, help="where reports go")
    parser.add_argument(
        "--libkrun", default=libkrun.ANY, metavar="VERSION", help="as cargo has it: =1.19.6"
    )
    parser.add_argument("--cache", type=Path, help="instead of waggle's, for the lab's own files")
    parser.add_argument("--put", type=Path, help="a file or directory that becomes /lab/put inside")
    options = parser.parse_args(argv)
    only: list[str] = options.only or []
    unknown = sorted(set(only) - set(known))
    if unknown:
        parser.error(f"there is no job {', '.join(unknown)}; there are {names}")
    return options


def wanted(options: argparse.Namespace) -> session.Wish:
    """Convert the command line into a wish."""
    given = program()
    jobs = [job for job in jobs_with(given) if not options.only or job.name in options.only]
    if options.shell_command is not None:
        jobs = [Job(SHELL, options.shell_command, options.seconds)]
    total = max(session.TOTAL_SECONDS, sum(job.seconds for job in jobs))
    return session.Wish(
        jobs,
        options.reports,
        options.libkrun,
        options.put,
        total_seconds=total,
        cloud_hypervisor=given,
    )


async def interruptible(work: Coroutine[object, object, session.Result]) -> session.Result:
    """Run the work; SIGTERM and SIGHUP end it with cleanup, as SIGINT does."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task


def prepare(store: Store, display: Display) -> int:
    """Make base and libraries for a later run to find. A failure is printed and is not an error."""
    with store.run_directory() as work:
        making = session.prepare_early(load(), store, work, libkrun.ANY, display)
        try:
            asyncio.run(making)
        except WaggleError as error:
            display.say(f"the lab could not be made: {error.message}")
    return 0


def main(argv: list[str]) -> int:
    """Check, run, report, and return the exit code."""
    options = parse(argv)
    display = Display(sys.stderr)
    settings = load()
    store = lab_store(options.cache or Places.of(settings).cache)
    verdict = judge(look())
    for obstacle in (*verdict.obstacles, *verdict.mends):
        display.say(f"cannot run here: {obstacle}")
    if verdict.needless:
        display.say(f"needless here: {verdict.needless}")
    if options.prepare and not (verdict.can_run and not verdict.needless):
        return 0
    if options.check or not verdict.can_run:
        display.say("the lab can run here" if verdict.can_run else "the lab cannot run here")
        return 0 if verdict.can_run else 2
    if options.prepare:
        return prepare(store, display)
    try:
        result = asyncio.run(interruptible(session.run(settings, store, wanted(options), display)))
    except WaggleError as error:
        display.say("the lab could not be made")
        sys.stderr.write(f"{error.message}\n{error.hint or ''}\n")
        return 2
    except (asyncio.CancelledError, KeyboardInterrupt):
        display.say("interrupted; nothing is left")
        return 130
    print(result.story)
    display.say(f"reports: {options.reports}")
    if options.shell_command is not None:
        return result.codes.get(SHELL, 1)
    return 0 if result.good else 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
