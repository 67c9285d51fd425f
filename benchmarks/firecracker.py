# SPDX-License-Identifier: Apache-2.0
"""Firecracker, compared with QEMU and libkrun on the same KVM, and with its own boots.

If neither KVM nor the lab works, the rows stay as they were and a line says why.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from lab.jobs import FIRECRACKER, REPORTS

from benchmarks import with_kvm
from benchmarks.figures import compare
from benchmarks.firecracker_inside import ROUNDS, Report, main
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.table import Result
from lab import firecracker

MEGABYTE = 1_000_000
FILE = "firecracker.json"


async def measure(options: Options) -> list[Result]:
    """Measure the rows of the group `firecracker`."""
    here, rounds = with_kvm.is_here(), options.rounds or ROUNDS
    if here is None:
        return []
    with tempfile.TemporaryDirectory(prefix="waggle-firecracker-") as name:
        target = Path(name, FILE)
        if here:
            programs = await firecracker.ensure(with_kvm.store(), options.tick)
            await main(target, programs / firecracker.FIRECRACKER, rounds)
        else:
            module = "benchmarks.firecracker_inside"
            command = f"python3 -m {module} {REPORTS / FILE} {FIRECRACKER} {rounds}"
            await with_kvm.in_the_lab("firecracker", command, Path(name))
        report: Report = json.loads(target.read_text())
    return results(report, "here" if here else "in the lab")


def results(report: Report, where: str) -> list[Result]:
    """Make the lines of the table. Pure."""
    made: list[Result] = []
    for key, sides in report.items():
        if key == "lost":
            (lost,), (of,) = sides["ours"], sides["theirs"]
            how = f"{where}, of {of:.0f}"
            line = Result("firecracker-lost", lost, f"{lost:.0f} lost", "", how)
        else:
            line = ratio(f"firecracker-{key}", compare(**sides))
            ours, theirs, how = line.ours, line.theirs, line.how
            if key == "memory":
                ours, theirs = (_megabytes(sides[side]) for side in ("ours", "theirs"))
                how = f"medians of {len(sides['ours'])} copies alive"
            line = Result(line.key, line.value, ours, theirs, f"{where}, {how}")
        made.append(line)
    return made


def _megabytes(sizes: list[float]) -> str:
    return f"{statistics.median(sizes) / MEGABYTE:.1f} MB"
