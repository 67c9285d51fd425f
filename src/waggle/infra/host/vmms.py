# SPDX-License-Identifier: Apache-2.0
"""The lines of `waggle doctor` about the VMM programs that the operator added. Pure.

They say what each program can and how its machines are confined. A program that cannot be used is
no failure here: the check of the hypervisor says whether machines can run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from waggle.infra.host.preflight import CheckResult, ok, warn
from waggle.infra.vmm.kept import Binary, Installed
from waggle.infra.vmm.version import TITLES, Version, Vmm

_NAME = "VMM programs"
_BESIDE = "libkrun"
"""The check that these lines follow."""


def with_programs(
    results: Sequence[CheckResult],
    installed: Sequence[Installed],
    *,
    is_root: bool,
    landlock: int,
) -> list[CheckResult]:
    """Return the results of the checks with the lines about programs in their place."""
    at = next((n for n, one in enumerate(results, 1) if one.name == _BESIDE), len(results))
    lines = programs(installed, is_root=is_root, landlock=landlock)
    return [*results[:at], *lines, *results[at:]]


def programs(
    installed: Sequence[Installed],
    *,
    is_root: bool,
    landlock: int,
    arch: str = platform.machine(),
) -> list[CheckResult]:
    """Return one line for each program, or one that there is none.

    `is_root` says whether the server is root, which Firecracker's jailer needs; `landlock` is the
    kernel's version of that, 0 for none; `arch` is this machine's.
    """
    if not installed:
        names = " or ".join(TITLES.values())
        return [ok(_NAME, f"not installed; 'waggle vmm add PATH' adds {names}")]
    newest: dict[Vmm, Version] = {}
    for one in installed:  # one that is broken, too: an older one never replaces it
        if one.arch == arch:
            newest[one.vmm] = max(one.version, newest.get(one.vmm, one.version))
    return [
        _line(one, newest.get(one.vmm), lambda it: _start(it, is_root=is_root, landlock=landlock))
        for one in installed
    ]


def _line(one: Installed, newest: Version | None, start: Callable[[Binary], str]) -> CheckResult:
    name = f"{one.vmm} {one.version}"
    if one.binary is None or one.problem:
        remove = f"waggle vmm rm {one.vmm} {one.version}"
        use = "; new machines would use it" if one.version == newest else ""
        mend = f"Add it again: waggle vmm add PATH; or remove it: {remove}"
        return warn(name, f"{one.problem}{use}", mend)
    use = "" if one.version == newest else f"kept for what it froze, new machines use {newest}; "
    return ok(name, f"{use}can freeze machines; {start(one.binary)}")


def _start(binary: Binary, *, is_root: bool, landlock: int) -> str:
    """Say how its machines are confined, and how they could be confined otherwise."""
    spaces = "its own user, files, network and processes"
    if is_root and binary.jailer is not None:
        return f"starts in its jailer: {spaces}"
    layer = f"Landlock {landlock}" if landlock else "no Landlock, which this kernel does not offer"
    if not is_root:
        return (
            f"starts confined by waggle: its own files, network and processes, {layer}, but the "
            "user of the server: where that is root, each machine has its own"
        )
    confined = f"starts confined by waggle: {spaces}, {layer}"
    if binary.vmm is not Vmm.FIRECRACKER:
        return confined
    return f"{confined}; its jailer would do that: waggle vmm add PATH --jailer PATH"
