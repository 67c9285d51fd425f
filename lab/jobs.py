# SPDX-License-Identifier: Apache-2.0
"""The jobs that the lab runs inside the outer machine, in order. Change them only here.

Each command runs in bash, as root, at the root of the project, with `ENVIRONMENT`; later jobs run
even if it fails. If a job writes JUnit XML to its `report`, its failures are named at the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

REPORTS = PurePosixPath("/lab/report")
PARTS = PurePosixPath("/var/lib/waggle")
LIBRARIES = PARTS / "lib"
FIRECRACKER = PARTS / "vmm" / "firecracker"
"""Its jailer lies beside it."""
ENVIRONMENT = {  # the guest's kernel is already there, so libkrunfw need not be named
    "WAGGLE_HYPERVISOR": "krun",
    "WAGGLE_LIBKRUN_PATH": str(LIBRARIES / "libkrun.so"),
    "WAGGLE_TEST_FIRECRACKER": str(FIRECRACKER),
}
MACHINES = min(2, os.cpu_count() or 1)
"""Number of outer machines at once; each takes 3 GiB."""
TOTAL_SECONDS = 1800.0
"""Limit for all jobs together, from the start of the outer machine, whatever hangs."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command. `seconds` is its deadline; its name is also a file name."""

    name: str
    command: str
    seconds: float

    @property
    def report(self) -> str:
        """The file name of its JUnit XML, if it writes one."""
        return f"{self.name}.xml"


def pytest_job(name: str, arguments: str, seconds: float) -> Job:
    """Return a job that runs tests of the project."""
    options = "-v --no-header --tb=short --durations=5 -p no:cacheprovider"
    report = f"--junit-xml={REPORTS / name}.xml"
    return Job(name, f"python3 -m pytest {options} {report} {arguments}", seconds)


_GROUPS = "tests/infra/shared/test_cgroups"
JOBS = (
    pytest_job("in-turn", "tests/contract -k 'krun and twenty'", 700),
    pytest_job("contract", "tests/contract -k 'krun and not four_machines and not twenty'", 700),
    pytest_job("main-job", "tests/e2e/test_main_job.py -m 'not net' -k 'not node'", 600),
    pytest_job("network", "tests/vm/test_network.py", 400),
    pytest_job("four-at-once", "tests/contract -k 'krun and four_machines'", 400),
    pytest_job("cgroups", f"{_GROUPS}.py {_GROUPS}_plan.py", 400),
)


def shares(jobs: Sequence[Job], machines: int) -> list[list[Job]]:
    """Distribute jobs to at most `machines`, always the next to the least loaded. Pure.

    Each machine has one CPU: with two, QEMU's emulation of SVM sometimes breaks, because an
    interrupt comes between VMRUN and STGI. Several machines at once are stable.
    """
    lanes: list[list[Job]] = [[] for _ in range(max(1, min(machines, len(jobs))))]
    for job in jobs:
        min(lanes, key=lambda lane: sum(queued.seconds for queued in lane)).append(job)
    return lanes
