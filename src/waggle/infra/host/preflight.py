# SPDX-License-Identifier: Apache-2.0
"""The types and the runner of preflight checks: conditions for creating environments on this host.

Behind `waggle doctor` and `/readyz`. A check examines one thing and reports its state and the
remedy. The checks are in `checks_machine` and `checks_files`; `doctor` lists them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from waggle.infra.host.hypervisors import (
    AccelSetting,
    HypervisorSetting,
    KvmFacts,
    Library,
    Preference,
    read_kvm_facts,
)
from waggle.infra.shared.cgroup_plan import Facts
from waggle.infra.shared.cgroups import disk_of, read_facts

GIB = 1024**3


class Status(StrEnum):
    """The result of a check. `FAIL`: the main job cannot run; `WARN`: it runs, but worse."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The findings of a check. `mend` is the remedy and is empty when all is well."""

    name: str
    status: Status
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of the checks, as plain values from the settings and from the other adapters.

    `images` returns for every runtime's image whether it exists, `outdated` the images that a build
    now would make differently. Sizes are in MiB.
    """

    data_dir: Path
    kernel: Path
    kit: Path
    listen_host: str = "127.0.0.1"
    listen_port: int = 8080
    port_base: int = 10000
    port_max: int = 11000
    qemu_binary: str = "qemu-system-x86_64"
    qemu_older: tuple[str, ...] = ()
    accel: AccelSetting = "auto"
    hypervisor: HypervisorSetting = "auto"
    prefer: Preference = "isolation"
    memory_mib: int = 512
    max_environments: int = 10
    ca_bundle: Path | None = None
    server_is_running: bool = False
    images: Callable[[], Mapping[str, bool]] = field(default=dict[str, bool])
    outdated: Callable[[], Sequence[str]] = field(default=tuple[str, ...])
    libkrun: Callable[[], Library] = field(default=lambda: Library("it was not looked for.", ""))
    kvm: Callable[[], KvmFacts] = field(default=read_kvm_facts)
    groups: Callable[[], Facts] = field(default=read_facts)
    disk: Callable[[Path], str | None] = field(default=disk_of)
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)


Check = Callable[[Subject], Awaitable[CheckResult]]


def ok(name: str, detail: str) -> CheckResult:
    """Return a result that all is well."""
    return CheckResult(name, Status.OK, detail)


def warn(name: str, detail: str, mend: str) -> CheckResult:
    """Return a result that the main job runs, but worse than it could."""
    return CheckResult(name, Status.WARN, detail, mend)


def fail(name: str, detail: str, mend: str) -> CheckResult:
    """Return a result that the main job cannot run."""
    return CheckResult(name, Status.FAIL, detail, mend)


async def run_checks(subject: Subject, checks: Mapping[str, Check]) -> list[CheckResult]:
    """Run the checks in order. An exception in a check becomes a failed result."""
    results: list[CheckResult] = []
    for name, check in checks.items():
        try:
            results.append(await check(subject))
        except Exception as error:
            results.append(fail(name, f"the check itself failed: {error}", "Report this."))
    return results


def existing(path: Path) -> Path:
    """Return the path, or the nearest parent directory that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def can_run(results: list[CheckResult]) -> bool:
    """Return whether the main job can run, which decides the exit code of `waggle doctor`."""
    return all(result.status is not Status.FAIL for result in results)
