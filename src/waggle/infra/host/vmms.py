# SPDX-License-Identifier: Apache-2.0
"""The lines of `waggle doctor` about the VMM programs that the operator added.

Pure, except for `refusal` and `nesting`. They say what each program can and how its machines are
confined. A program that cannot be used is no failure here: the check of the hypervisor says whether
machines can run.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from waggle.infra.host.preflight import CheckResult, ok, warn
from waggle.infra.host.process import run
from waggle.infra.vmm.kept import Binary, Installed
from waggle.infra.vmm.version import TITLES, UNTESTED_MEND, Version, Vmm, untested

_NAME = "VMM programs"
_PROBE_SECONDS = 20.0
_APART = (
    "Allow new namespaces and a /proc of their own: a container needs the capability SYS_ADMIN and "
    "nothing mounted over its /proc, a systemd service `pid` among its RestrictNamespaces."
)
_NAMED = "; used only where WAGGLE_HYPERVISOR names it"
_HIDES: Final = {"kvm_intel": Version(50), "kvm_amd": Version(52)}
"""The first Cloud Hypervisor that can take VMX or SVM from a guest: 50's search ends before SVM."""
_BESIDE = "libkrun"
"""The check that these lines follow."""


async def refusal(*, is_root: bool) -> str:
    """Return why the kernel gives a VMM no processes of its own; empty if it does.

    Without them its machines do not start: `waggle.infra.vmm.starter`.
    """
    own = () if is_root else ("--user", "--map-root-user")
    argv = ["unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", *own]
    answer = await run([*argv, "mount", "-t", "proc", "none", "/proc"], timeout=_PROBE_SECONDS)
    return "" if answer.ok else answer.last_words(1) or "unshare fails"


def nesting(modules: Path = Path("/sys/module")) -> str:
    """Return the host's module of KVM that offers machines within machines; empty if none does."""
    for name in _HIDES:
        try:
            if (modules / name / "parameters/nested").read_text().strip() in ("1", "Y"):
                return name
        except OSError:
            continue
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What this host and the server's user allow a VMM to be confined by."""

    is_root: bool
    """Whether the server is root, which Firecracker's jailer needs."""
    landlock: int
    """The kernel's version of Landlock, 0 for none."""
    refused: str = ""
    """What `refusal` says."""
    nesting: str = ""
    """What `nesting` says."""


def with_programs(
    results: Sequence[CheckResult], installed: Sequence[Installed], confinement: Confinement
) -> list[CheckResult]:
    """Return the results of the checks with the lines about programs in their place."""
    at = next((n for n, one in enumerate(results, 1) if one.name == _BESIDE), len(results))
    return [*results[:at], *programs(installed, confinement), *results[at:]]


def programs(
    installed: Sequence[Installed], confinement: Confinement, *, arch: str = platform.machine()
) -> list[CheckResult]:
    """Return one line for each program, or one that there is none. `arch` is this machine's."""
    if not installed:
        names = " or ".join(TITLES.values())
        return [ok(_NAME, f"not installed; 'waggle vmm add PATH' adds {names}")]
    newest: dict[Vmm, Version] = {}
    for one in installed:  # one that is broken, too: an older one never replaces it
        if one.arch == arch:
            newest[one.vmm] = max(one.version, newest.get(one.vmm, one.version))
    return [_line(one, newest.get(one.vmm), confinement) for one in installed]


def _line(one: Installed, newest: Version | None, confinement: Confinement) -> CheckResult:
    name = f"{one.vmm} {one.version}"
    if one.binary is None or one.problem:
        remove = f"waggle vmm rm {one.vmm} {one.version}"
        use = "; new machines would use it" if one.version == newest else ""
        mend = f"Add it again: waggle vmm add PATH; or remove it: {remove}"
        return warn(name, f"{one.problem}{use}", mend)
    if confinement.refused:
        cause = f"its machines cannot start, without processes apart: {confinement.refused}"
        return warn(name, cause, _APART)
    use = "" if one.version == newest else f"kept for what it froze, new machines use {newest}; "
    named = _NAMED if one.vmm is Vmm.CLOUD_HYPERVISOR else ""
    detail = f"{use}can freeze machines; {_start(one.binary, confinement)}{named}"
    module = confinement.nesting if one.vmm is Vmm.CLOUD_HYPERVISOR else ""
    if module and one.version < _HIDES[module]:
        cause = f"its guests can use the host's KVM ({module}), which should be out of their reach"
        mend = f"Add {_HIDES[module]} or newer, or load {module} with nested=0."
        return warn(name, f"{cause}; {detail}", mend)
    if newer := untested(one.vmm, one.version):
        return warn(name, f"{newer}; {detail}", UNTESTED_MEND)
    return ok(name, detail)


def _start(binary: Binary, confinement: Confinement) -> str:
    """Say how its machines are confined, and how they could be confined otherwise."""
    spaces = "its own user, files, network and processes"
    if confinement.is_root and binary.jailer is not None:
        return f"starts in its jailer: {spaces}"
    layer = "no Landlock, which this kernel does not offer"
    if confinement.landlock:
        layer = f"Landlock {confinement.landlock}"
    if not confinement.is_root:
        return (
            f"starts confined by waggle: its own files, network and processes, {layer}, but the "
            "user of the server: where that is root, each machine has its own"
        )
    confined = f"starts confined by waggle: {spaces}, {layer}"
    if binary.vmm is not Vmm.FIRECRACKER:
        return confined
    return f"{confined}; its jailer would do that: waggle vmm add PATH --jailer PATH"
