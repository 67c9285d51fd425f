# SPDX-License-Identifier: Apache-2.0
"""The jobs that the lab runs inside the outer machine, in order. Change them only here.

Each runs as root, at the root of the project, with `ENVIRONMENT`; later jobs run even if it fails.
If a job writes JUnit XML to its `report`, its failures are named at the end. Jobs stay apart, so
that each has a deadline and starts again alone; a start costs little, since those of pytest are
copies of one process that has imported what tests need (`lab/inside/run.py`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

REPORTS = PurePosixPath("/lab/report")
PARTS = PurePosixPath("/var/lib/waggle")
LIBRARIES = PARTS / "lib"
FIRECRACKER = PARTS / "vmm" / "firecracker"
"""Its jailer lies beside it."""
ENVIRONMENT = {  # the guest's kernel is already there, so libkrunfw need not be named
    "WAGGLE_HYPERVISOR": "krun",
    "WAGGLE_LIBKRUN_PATH": str(LIBRARIES / "libkrun.so"),
    "WAGGLE_TEST_FIRECRACKER": str(FIRECRACKER),
    "WAGGLE_TEST_TEMPLATES": "off",
}
CLOUD_HYPERVISOR = PARTS / "vmm" / "cloud-hypervisor"
GIVEN = "WAGGLE_TEST_CLOUD_HYPERVISOR"
"""Names a program on this host, which no package index has: it comes along, with its own jobs."""
INSIDE = {GIVEN: str(CLOUD_HYPERVISOR)}
MACHINES = min(2, os.cpu_count() or 1)
"""Number of outer machines at once; each takes 3 GiB."""
TOTAL_SECONDS = 1800.0
"""Limit for all jobs together, from the start of the outer machine, whatever hangs."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command of bash, or if there are `tests`, what pytest is given.

    `seconds` is its deadline; its name is also a file name. `variables` are its own.
    """

    name: str
    command: str
    seconds: float
    tests: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def report(self) -> str:
        """The file name of its JUnit XML, if it writes one."""
        return f"{self.name}.xml"


def pytest_job(name: str, arguments: str, seconds: float, hypervisor: str = "") -> Job:
    """Return a job that runs tests of the project, those of servers with this hypervisor."""
    options = ("-v", "--no-header", "--tb=short", "--durations=5", "-p", "no:cacheprovider")
    report = f"--junit-xml={REPORTS / name}.xml"
    choice = {"WAGGLE_HYPERVISOR": hypervisor} if hypervisor else {}
    return Job(name, "", seconds, (*options, report, *shlex.split(arguments)), choice)


_MAIN_JOB = "tests/e2e/test_main_job.py -m 'not net' -k 'not node'"
_FROZEN = (
    "two_copies or copy_of_a_copy or origin_continues or paused_to_disk or vmm_cannot_read"
    " or concurrent_copies or separate_disks or no_keys or many_copies"
)
JOBS = (
    pytest_job("contract", "tests/contract -k 'krun and not four_machines' --turns=5", 700),
    pytest_job(
        "firecracker", "tests/contract -k 'firecracker and not four_machines' --turns=5", 600
    ),
    pytest_job(
        "firecracker-frozen",
        f"tests/vm/test_freezing.py tests/vm/test_templates.py -k '{_FROZEN}' --copies=50",
        700,
        "firecracker",
    ),
    pytest_job("main-job", _MAIN_JOB, 600),
    pytest_job("firecracker-main-job", _MAIN_JOB, 600, "firecracker"),
    pytest_job("network", "tests/vm/test_network.py", 400),
    pytest_job(
        "firecracker-kills",
        "tests/endurance/test_kills.py -m endurance --kills=1",
        400,
        "firecracker",
    ),
    pytest_job("firecracker-floods", "tests/vm/test_vsock_floods.py", 300, "firecracker"),
    pytest_job("four-at-once", "tests/contract -k '(krun or firecracker) and four_machines'", 400),
    pytest_job("cgroups", "tests/infra/shared/test_cgroups.py", 300),
)

_CLOUD = "cloud-hypervisor"
CLOUD_JOBS = (
    pytest_job(_CLOUD, "tests/contract -k 'cloud and not four_machines' --turns=5", 700),
    pytest_job(
        f"{_CLOUD}-frozen",
        f"tests/vm/test_freezing.py tests/vm/test_templates.py -k '{_FROZEN}' --copies=20",
        700,
        _CLOUD,
    ),
    pytest_job(f"{_CLOUD}-main-job", _MAIN_JOB, 600, _CLOUD),
    pytest_job(
        f"{_CLOUD}-kills", "tests/endurance/test_kills.py -m endurance --kills=1", 500, _CLOUD
    ),
)


def program() -> Path | None:
    """Return the Cloud Hypervisor that this host has for tests, if any."""
    return Path(name) if (name := os.environ.get(GIVEN)) else None


def jobs_with(cloud_hypervisor: Path | None) -> tuple[Job, ...]:
    """Return all jobs. Pure."""
    return JOBS if cloud_hypervisor is None else (*JOBS, *CLOUD_JOBS)


def shares(jobs: Sequence[Job], machines: int) -> list[list[Job]]:
    """Distribute jobs to at most `machines`, always the next to the least loaded. Pure.

    Each machine has one CPU: with two, QEMU's emulation of SVM sometimes breaks, because an
    interrupt comes between VMRUN and STGI. Several machines at once are stable.
    """
    lanes: list[list[Job]] = [[] for _ in range(max(1, min(machines, len(jobs))))]
    for job in jobs:
        min(lanes, key=lambda lane: sum(queued.seconds for queued in lane)).append(job)
    return lanes
