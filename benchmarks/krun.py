# SPDX-License-Identifier: Apache-2.0
"""krun, compared with a peer that embeds libkrun and with a minimal program that only calls it.

If neither KVM nor the lab works, the rows stay as they were and a line says why.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lab.jobs import REPORTS

from benchmarks import with_kvm
from benchmarks.figures import Comparison, compare
from benchmarks.krun_inside import ROUNDS, Report, main
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.table import Result
from lab import peer

MEGABYTE = 1_000_000
FILE = "krun.json"


async def measure(options: Options) -> list[Result]:
    """Measure the rows `krun-first-result`, `krun-banner` and `krun-memory`."""
    here, rounds = with_kvm.is_here(), options.rounds or ROUNDS
    if here is None:
        return []
    with tempfile.TemporaryDirectory(prefix="waggle-krun-") as name:
        target = Path(name, FILE)
        msb = await peer.ensure(with_kvm.store(), options.tick)
        if here:
            await main(target, msb, rounds)
        else:
            command = f"python3 -m benchmarks.krun_inside {REPORTS / FILE} /lab/put {rounds}"
            await with_kvm.in_the_lab("krun", command, Path(name), msb)
        report: Report = json.loads(target.read_text())
    where = "here" if here else "in the lab"
    return results({key: compare(**sides) for key, sides in report.items()}, where)


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
