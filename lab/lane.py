# SPDX-License-Identifier: Apache-2.0
"""One outer machine's share of the jobs, continued in a new machine if one breaks down.

Called by `session`, which runs several lanes at once. Must not know how its machines are made.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import outer, report
from lab.display import Display
from lab.jobs import Job

ATTEMPTS = 3
"""QEMU's emulation of SVM sometimes breaks down with several machines at once: its kernel then
panics or hangs. The jobs that had not ended run again in a new outer machine, and the story says
so."""
NewMachine = Callable[[str, Sequence[Job]], outer.Machine]
"""Makes a machine with jobs; the name is that of its directory, which is removed after it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a lane: success, the story in lines, and the exit code of every ended job.

    `broke` means that outer machines broke down until no attempt was left, and no job failed before
    that: the remaining jobs were not tested.
    """

    good: bool
    story: str
    codes: dict[str, int]
    broke: bool = False


def joined(results: Sequence[Result]) -> Result:
    """Join the results of all lanes. Pure."""
    bad = [result for result in results if not result.good]
    return Result(
        not bad,
        "\n".join(result.story for result in results),
        {job: code for result in results for job, code in result.codes.items()},
        bool(bad) and all(result.broke for result in bad),
    )


async def run(
    name: str,
    jobs: Sequence[Job],
    new_machine: NewMachine,
    end: float,
    reports: Path,
    display: Display,
) -> Result:
    """Run the jobs in order until the loop's time `end`. Cancelling ends the machine."""
    clock = asyncio.get_running_loop().time
    stories: list[str] = []
    codes: dict[str, int] = {}
    good = broke = False
    for attempt in range(1, ATTEMPTS + 1):
        machine = new_machine(f"{name}-{attempt}", jobs)
        outcome = await outer.run(machine, end - clock(), partial(display.event, name))
        report.unpack(machine.disks.report, reports)
        shutil.copy(machine.console, reports / f"outer-console-{name}-{attempt}.log")
        good, story = report.summary(outcome, [job.name for job in jobs], reports)
        stories.append(story)
        if outcome.problem:
            stories += [f"    {line}" for line in outer.last_words(machine)]
        shutil.rmtree(machine.directory)
        codes |= {ended.job: ended.code for ended in outcome.progress.ended}
        jobs = [job for job in jobs if job.name not in codes]
        broke = outcome.broke and bool(jobs)
        good = good or (outcome.broke and not jobs)  # it broke after the last job had ended
        if not broke or attempt == ATTEMPTS:
            break
        display.say(f"{name}: {outcome.problem}: what it did not finish runs in a new one")
        stories.append("THE OUTER MACHINE BROKE DOWN and was started again.")
    failed = any(codes.values())
    return Result(good and not failed, "\n".join(stories), codes, broke and not failed)
