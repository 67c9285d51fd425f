# SPDX-License-Identifier: Apache-2.0
"""Preflight checks of what is put around a machine's process, for the case that it is taken over.

Listed in `waggle.infra.host.doctor`. Nothing here keeps machines from running: what is missing is a
layer less, and is named with the next step.
"""

from __future__ import annotations

import platform
from pathlib import Path

from waggle.infra.host.preflight import CheckResult, Subject, existing, ok, warn
from waggle.infra.host.process import run
from waggle.infra.shared.cgroup_plan import Nowhere, place

_SPACES = ("--mount", "--net", "--ipc", "--uts")
_TRY = ("sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /tmp")
_ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")


async def users(subject: Subject) -> CheckResult:
    """Each machine's process has a user of its own."""
    if subject.is_root:
        return ok("machine users", "each machine's process has a user of its own")
    return warn(
        "machine users",
        "all machines run as this user, whose files and processes an escape would be closest to",
        "Run the server as root, or as a user that owns nothing else.",
    )


async def namespaces(subject: Subject) -> CheckResult:
    """The kernel gives a machine's process a view and a network of its own."""
    spaces = _SPACES if subject.is_root else (*_SPACES, "--user", "--map-root-user")
    answer = await run(["unshare", *spaces, *_TRY], timeout=20)
    if answer.ok:
        return ok("machine namespaces", "own files, network, queues and names for each machine")
    mend = "Start the container with the capability SYS_ADMIN and without an AppArmor profile."
    if not subject.is_root:
        mend = (
            "Run the server as root, or allow user namespaces: sysctl -w "
            "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0."
        )
    detail = f"machines keep the host's view of files and network: {answer.last_words(1)}"
    return warn("machine namespaces", detail, mend)


async def calls(_subject: Subject) -> CheckResult:
    """The kernel filters a machine's system calls."""
    if not _ACTIONS.exists():
        mend = "Use a kernel with CONFIG_SECCOMP_FILTER."
        return warn("system calls", "this kernel has no filters, so QEMU does not start", mend)
    if platform.machine() != "x86_64":
        return warn("system calls", "the filters are for x86-64 alone", "Use an x86-64 host.")
    return ok("system calls", "filtered for each machine")


async def groups(subject: Subject) -> CheckResult:
    """Machines have limits of memory, processors, threads and disk on the host."""
    found = place(subject.groups())
    if isinstance(found, Nowhere):
        return warn("control groups", f"none for machines: {found.problem}", found.mend)
    below = f"each machine has limits below {found.base}"
    if found.unlimited:
        return warn(
            "control groups",
            f"{below}, but none of {' and '.join(found.unlimited)}",
            "Run the server as a systemd service with Delegate=yes, on a kernel with these "
            "controllers in cgroup v2.",
        )
    if subject.disk(existing(subject.data_dir)) is None:
        return warn(
            "control groups",
            f"{below}, but none of the disk's rate: {subject.data_dir} is on no disk of its own",
            "Set WAGGLE_DATA_DIR to one on ext4 or XFS: btrfs, ZFS and tmpfs have no limits.",
        )
    return ok("control groups", below)
