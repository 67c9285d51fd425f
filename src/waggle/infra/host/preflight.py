# SPDX-License-Identifier: Apache-2.0
"""Preflight: what must hold on this machine before an environment can be created, as data.

Behind `waggle doctor` and `/readyz`. `CHECKS` lists every check; each looks at one thing and says
how it is and how to mend it. The checks themselves are in `checks_machine` and `checks_files`.
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
    """`FAIL` means that the main job cannot run; `WARN` that it runs, but worse."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. `mend` says what to do and is empty when all is well."""

    name: str
    status: Status
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, as plain values from the settings and from the other adapters.

    `images` tells for each runtime's image whether it is there, `outdated` which of them a build
    now would make otherwise. Sizes are in MiB.
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
    """All is well."""
    return CheckResult(name, Status.OK, detail)


def warn(name: str, detail: str, mend: str) -> CheckResult:
    """The main job runs, but worse than it could."""
    return CheckResult(name, Status.WARN, detail, mend)


def fail(name: str, detail: str, mend: str) -> CheckResult:
    """The main job cannot run."""
    return CheckResult(name, Status.FAIL, detail, mend)


async def run_checks(subject: Subject, checks: Mapping[str, Check]) -> list[CheckResult]:
    """Run the checks in order. One that breaks is a failure of its own, never an exception."""
    results: list[CheckResult] = []
    for name, check in checks.items():
        try:
            results.append(await check(subject))
        except Exception as error:
            results.append(fail(name, f"the check itself failed: {error}", "Report this."))
    return results


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def can_run(results: list[CheckResult]) -> bool:
    """Say whether the main job can run, which is the exit code of `waggle doctor`."""
    return all(result.status is not Status.FAIL for result in results)
