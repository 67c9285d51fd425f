# SPDX-License-Identifier: Apache-2.0
"""The types of preflight checks, and the checks of programs, files and a VMM's confinement.

Behind `waggle doctor` and `/readyz`. A check examines one thing and reports its state and the
remedy; `doctor` lists all checks. They only read, but for a probe file in the data directory.
Machines also run without the confinement that `users`, `namespaces` and `groups` check: each is one
more layer against a VMM that was taken over.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from waggle.domain.hypervisor import HypervisorName
from waggle.infra.host.hypervisors import (
    AccelSetting,
    Candidate,
    Decision,
    KvmFacts,
    Preference,
    choose_acceleration,
    choose_hypervisors,
    read_kvm_facts,
)
from waggle.infra.host.process import run
from waggle.infra.host.requirements import building, missing
from waggle.infra.host.subordinate import read_ranges, shared_with
from waggle.infra.shared.cgroups import Facts, Nowhere, place, read_facts
from waggle.infra.shared.confined import NEXT_STEP, refusal
from waggle.infra.shared.disk_room import disk_of, existing

SETUP = "Run 'waggle setup'."
_GIB = 1024**3
_LEAST_FREE = 1 * _GIB
_GOOD_FREE = 5 * _GIB


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
    kernel: tuple[Path, ...]
    """Of all hypervisors that may run, and what belongs to them."""
    kit: Path
    listen_host: str = "127.0.0.1"
    listen_port: int = 8080
    port_base: int = 10000
    port_max: int = 11000
    qemu_binary: str = "qemu-system-x86_64"
    qemu_older: tuple[str, ...] = ()
    accel: AccelSetting = "auto"
    hypervisor: tuple[HypervisorName, ...] = ()
    """Those that the operator demands, in order; none means all that can be used."""
    prefer: Preference = "isolation"
    full_kernel: bool = False
    memory_mib: int = 512
    max_environments: int = 10
    ca_bundle: Path | None = None
    network: str = "public by default"
    """What environments reach, in words."""
    network_rules: Callable[[], int] | None = None
    """Reads the operator's rules and returns how many names they have; raises WaggleError."""
    secrets: Callable[[], int] | None = None
    """Reads the operator's secrets file and returns how many it has; raises WaggleError."""
    server_is_running: bool = False
    images: Callable[[], Mapping[str, bool]] = field(default=dict[str, bool])
    outdated: Callable[[], Sequence[str]] = field(default=tuple[str, ...])
    candidates: Callable[[], Mapping[HypervisorName, Candidate]] = field(
        default=dict[HypervisorName, Candidate]
    )
    kvm: Callable[[], KvmFacts] = field(default=read_kvm_facts)
    groups: Callable[[], Facts] = field(default=read_facts)
    disk: Callable[[Path], str | None] = field(default=disk_of)
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    uid_base: int = 1_900_000_000
    subuids: Callable[[], str] = field(default=read_ranges)
    """Reads /etc/subuid."""

    def choice(self, candidates: Mapping[HypervisorName, Candidate]) -> Decision:
        """Return which hypervisors run machines. Raises as `choose_hypervisors`."""
        return choose_hypervisors(
            self.hypervisor,
            choose_acceleration(self.accel, self.kvm()),
            candidates,
            self.prefer,
            full_kernel=self.full_kernel,
        )


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


def can_run(results: list[CheckResult]) -> bool:
    """Return whether the main job can run, which decides the exit code of `waggle doctor`."""
    return all(result.status is not Status.FAIL for result in results)


async def programs(_subject: Subject) -> CheckResult:
    """Check the programs that environments need, except QEMU, which has its own check."""
    absent = [package for package in missing({"serve"}) if package.name != "QEMU"]
    if not absent:
        return ok("programs", "all found")
    detail = "; ".join(f"{package.name} is missing: it {package.why}" for package in absent)
    return fail("programs", detail, SETUP)


async def build_programs(_subject: Subject) -> CheckResult:
    """Check the programs that building images needs; environments run without them."""
    absent = missing(building(is_root=os.geteuid() == 0))
    if not absent and (refused := refusal(os.geteuid())):
        return warn("build programs", f"no user namespaces: {refused}", NEXT_STEP)
    if not absent:
        return ok("build programs", "all found")
    detail = "; ".join(f"{package.name} is missing: it {package.why}" for package in absent)
    return warn("build programs", detail, "Run 'waggle setup' to be able to build images.")


async def kernel(subject: Subject) -> CheckResult:
    """Check that the guest kernels exist, and what else machines with them need."""
    results = [_file("kernel", path) for path in subject.kernel]
    details = ", ".join(result.detail for result in results)
    return next((one for one in results if one.status is Status.FAIL), ok("kernel", details))


async def kit(subject: Subject) -> CheckResult:
    """Check that the guest kit exists."""
    return _file("guest kit", subject.kit)


def _file(name: str, path: Path) -> CheckResult:
    try:
        size = path.stat().st_size
    except OSError as error:
        return fail(name, f"{path}: {error.strerror}", SETUP)
    if not path.is_file() or not size:
        return fail(name, f"{path} is not a file with content", f"Remove it. {SETUP}")
    return ok(name, f"{path} ({size / 1e6:.0f} MB)")


async def images(subject: Subject) -> CheckResult:
    """Check that the runtimes' images exist and match their current definitions and archives."""
    found = subject.images()
    absent = sorted(name for name, there in found.items() if not there)
    old = subject.outdated()
    if not absent and not old:
        return ok("images", ", ".join(sorted(found)) or "none configured")
    commands = [f"waggle image build {name}" for name in (*absent, *old)]
    mend = f"Run: {'; '.join(commands)}"
    parts: list[str] = []
    if absent:
        parts.append(f"missing: {', '.join(absent)}")
    if old:
        parts.append(f"built from an earlier definition or another archive: {', '.join(old)}")
    made = fail if absent and len(absent) == len(found) else warn
    return made("images", "; ".join(parts), mend)


async def data_directory(subject: Subject) -> CheckResult:
    """Check that the data directory is writable and has space."""
    found = existing(subject.data_dir)
    name, mend = "data directory", "Give this user the directory, or set WAGGLE_DATA_DIR."
    try:
        with tempfile.TemporaryFile(dir=found) as probe:
            probe.write(b"waggle")
            probe.flush()
    except OSError as error:
        return fail(name, f"{found} cannot be written: {error.strerror}", mend)
    free = shutil.disk_usage(found).free
    detail = f"{subject.data_dir}, {free / _GIB:.1f} GiB free"
    if free < _LEAST_FREE:
        return fail(name, detail, "Free some space, or set WAGGLE_DATA_DIR to a larger disk.")
    if free < _GOOD_FREE:
        return warn(name, detail, "Images and environments may fill it; have 5 GiB or more.")
    return ok(name, detail)


_SPACES = ("--mount", "--net", "--ipc", "--uts")
_TRY = ("sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /tmp")
_ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")


async def users(subject: Subject) -> CheckResult:
    """Check that every VMM process has a separate user."""
    if subject.is_root:
        ids = range(subject.uid_base + subject.port_base, subject.uid_base + subject.port_max)
        if (line := shared_with(subject.subuids(), ids)) is None:
            return ok("machine users", "each machine's process has a user of its own")
        whose = f"ids {ids.start} to {ids.stop - 1} are given to a user of this host: {line}"
        return warn(
            "machine users",
            f"{whose} (/etc/subuid), whose processes waggle may take for machines, and end",
            "Set WAGGLE_VM_UID_BASE so that no range of /etc/subuid has these ids.",
        )
    return warn(
        "machine users",
        "all machines run as this user, whose files and processes an escape would be closest to",
        "Run the server as root, or as a user that owns nothing else.",
    )


async def namespaces(subject: Subject) -> CheckResult:
    """Check that the kernel gives a VMM process a separate file system view and network."""
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
    """Check that the kernel can filter a VMM's system calls."""
    if not _ACTIONS.exists():
        mend = "Use a kernel with CONFIG_SECCOMP_FILTER."
        return warn("system calls", "this kernel has no filters, so QEMU does not start", mend)
    if platform.machine() != "x86_64":
        return warn("system calls", "the filters are for x86-64 alone", "Use an x86-64 host.")
    return ok("system calls", "filtered for each machine")


async def groups(subject: Subject) -> CheckResult:
    """Check that machines get limits on memory, processors, threads and disk rate."""
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
            f"{below}, but none of the disk's rate: {subject.data_dir} is not on a block device",
            "Set WAGGLE_DATA_DIR to one on ext4 or XFS: btrfs, ZFS and tmpfs have no limits.",
        )
    return ok("control groups", below)
