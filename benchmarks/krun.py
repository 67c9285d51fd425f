# SPDX-License-Identifier: Apache-2.0
"""krun, compared with a peer that embeds libkrun and with a minimal program that only calls it.

With hardware virtualisation they run here, otherwise in the lab's outer machine (minutes). If
neither works, the rows stay as they were and a line says why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from lab.check import judge, lab_store, look
from lab.display import Display
from lab.jobs import REPORTS, Job
from lab.store import Store

from benchmarks.figures import Comparison, compare
from benchmarks.krun_inside import ROUNDS, Report, main
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.table import Result
from lab import peer, session
from waggle.config import Settings, load
from waggle.config.places import Places

MEGABYTE = 1_000_000
SECONDS = 1200.0
FILE = "krun.json"


async def measure(options: Options) -> list[Result]:
    """Measure the rows `krun-first-result`, `krun-banner` and `krun-memory`."""
    settings = load()
    store = lab_store(Places.of(settings).cache)
    verdict = judge(look())
    if not (verdict.needless or verdict.can_run):
        sys.stderr.write(
            f"krun is not measured: {'; '.join((*verdict.obstacles, *verdict.mends))}\n"
        )
        return []
    with tempfile.TemporaryDirectory(prefix="waggle-krun-") as name:
        target = Path(name, FILE)
        rounds = options.rounds or ROUNDS
        msb = await peer.ensure(store, options.tick)
        if verdict.needless:
            await main(target, msb, rounds)
        else:
            await _in_the_lab(settings, store, msb, Path(name), rounds)
        report: Report = json.loads(target.read_text())
    where = "here" if verdict.needless else "in the lab"
    return results({key: compare(**sides) for key, sides in report.items()}, where)


async def _in_the_lab(
    settings: Settings, store: Store, msb: Path, reports: Path, rounds: int
) -> None:
    command = f"python3 -m benchmarks.krun_inside {REPORTS / FILE} /lab/put {rounds}"
    wish = session.Wish([Job("krun", command, SECONDS)], reports, put=msb, total_seconds=SECONDS)
    result = await session.run(settings, store, wish, Display(sys.stderr))
    if not result.good:
        raise RuntimeError(result.story)


def results(compared: dict[str, Comparison], where: str) -> list[Result]:
    """Make the lines of the table. Pure."""
    made: list[Result] = []
    for key, comparison in compared.items():
        line = ratio(f"krun-{key}", comparison)
        if key == "memory":
            ours, theirs = (
                f"{size / MEGABYTE:.1f} MB" for size in (comparison.ours, comparison.theirs)
            )
            line = Result(line.key, line.value, ours, theirs, line.how)
        made.append(Result(line.key, line.value, line.ours, line.theirs, f"{where}, {line.how}"))
    return made
