# SPDX-License-Identifier: Apache-2.0
"""The list of preflight checks, in the order in which `waggle doctor` shows them."""

from __future__ import annotations

from collections.abc import Mapping

from waggle.infra.host import checks_files, checks_machine
from waggle.infra.host.preflight import Check, CheckResult, Subject, run_checks

CHECKS: Mapping[str, Check] = {
    "python": checks_machine.python,
    "architecture": checks_machine.architecture,
    "programs": checks_files.programs,
    "qemu": checks_machine.qemu,
    "acceleration": checks_machine.acceleration,
    "libkrun": checks_machine.libkrun,
    "hypervisor": checks_machine.hypervisor,
    "snapshots": checks_machine.freezing,
    "machine users": checks_files.users,
    "machine namespaces": checks_files.namespaces,
    "system calls": checks_files.calls,
    "control groups": checks_files.groups,
    "kernel": checks_files.kernel,
    "guest kit": checks_files.kit,
    "images": checks_files.images,
    "build programs": checks_files.build_programs,
    "data directory": checks_files.data_directory,
    "memory": checks_machine.memory,
    "open files": checks_machine.open_files,
    "guest ports": checks_machine.guest_ports,
    "listen address": checks_machine.listen_address,
    "CA bundle": checks_files.ca_bundle,
}


async def examine(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> list[CheckResult]:
    """Run all checks on this host."""
    return await run_checks(subject, checks)
