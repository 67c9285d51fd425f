# SPDX-License-Identifier: Apache-2.0
"""The machine that a Cloud Hypervisor makes or restores, and its command line.

Pure: `machine` makes the calls. All paths are those below the VMM's own root (`vmm.starter`), which
are the same for every machine, so a copy of a frozen one finds them again. A restore reads its
configuration from a file, which is written here and never taken from a VMM.
"""

from __future__ import annotations

import hashlib
from typing import Final

from waggle.domain.errors import BootFailed
from waggle.domain.machine import Resources
from waggle.infra.guest.link import KERNEL_ARGUMENTS
from waggle.infra.guest.vsock import CHANNELS_ARGUMENT
from waggle.infra.vmm import cloud_hypervisor as api
from waggle.infra.vmm.machine import API_SOCKET, VSOCK, path
from waggle.infra.vmm.version import Version
from waggle.infra.vmm.wires import DRIVES, INITRD, KERNEL, WRITABLE

MEMORY: Final = "memory"
CONSOLE: Final = "hvc"
SNAPSHOT: Final = "snapshot"
"""The names of this file, pipe and directory in the machine's /run."""
CONFIG, STATE, RANGES = "config.json", "state.json", "memory-ranges"
"""The files of a snapshot."""
INHERITED: Final = "/proc/self/fd/0"
"""Standard input: the memory that copies share, which is mapped privately."""
MAX_CPUS: Final = 64
COMMAND_LINE: Final = f"{KERNEL_ARGUMENTS} {CHANNELS_ARGUMENT} reboot=t nowatchdog apparmor=0"
"""Only the kernel writes to the console, when it panics. Without `nowatchdog` it takes the time for
which it was paused for a hang of its processor."""
_GUEST_CID = 3
_VSOCK_ID = "vsock"
"""Devices without a name get other ones in a copy, which then finds no state for them."""
_SPARSE = Version(51)
_TYPED = Version(50, 1)
_NESTS = Version(50)
"""It can leave out VMX and SVM from then on, see `qemu.argv`."""
"""Older ones find a disk's format out: a guest could choose one that names other files. They find
nothing but the machine's own below their root."""
_REPORTING = Version(52)
"""Older ones end when a copy's guest returns memory: its file cannot have holes punched."""
_OPERATIONS = 64
"""Disk reads or writes a second for every MiB a second, as in a machine's control group."""


def arguments() -> tuple[str, ...]:
    """Return the command line of every Cloud Hypervisor. Its own filters of calls are on."""
    return ("--api-socket", f"path={path(API_SOCKET)}", "--seccomp", "true")


def machine(
    resources: Resources, version: Version, io_mib: int = 0, *, copy: bool = False
) -> api.VmConfig:
    """Return a machine: one that boots, whose memory is a file in /run, or a `copy` of one.

    `io_mib` is MiB a second of the scratch disk in each direction, 0 for no limit. Raises
    BootFailed for resources that no machine is given.
    """
    if not 1 <= resources.cpus <= MAX_CPUS:
        raise BootFailed(f"Cloud Hypervisor gives a machine at most {MAX_CPUS} processors.")
    memory = api.MemoryZoneConfig(
        id="ram",
        size=resources.memory_mib << 20,
        file=INHERITED if copy else path(MEMORY),
        shared=not copy,
    )
    return api.VmConfig(
        cpus=api.CpusConfig(
            boot_vcpus=resources.cpus,
            max_vcpus=resources.cpus,
            nested=False if version >= _NESTS else None,
        ),
        memory=api.MemoryConfig(size=0, zones=[memory]),
        payload=api.PayloadConfig(
            kernel=f"/{KERNEL}", initramfs=f"/{INITRD}", cmdline=COMMAND_LINE
        ),
        disks=[_disk(name, version, io_mib) for name in DRIVES],
        rng=api.RngConfig(src="/dev/urandom"),
        balloon=api.BalloonConfig(
            size=0, deflate_on_oom=True, free_page_reporting=version >= _REPORTING
        ),
        vsock=api.VsockConfig(id=_VSOCK_ID, cid=_GUEST_CID, socket=path(VSOCK)),
        serial=api.SerialConfig(mode="Off"),
        console=api.ConsoleConfig(mode="File", file=path(CONSOLE)),
    )


def _disk(name: str, version: Version, io_mib: int) -> api.DiskConfig:
    limits = None
    if name == WRITABLE and io_mib:
        limits = api.RateLimiterConfig(
            bandwidth=api.TokenBucket(size=io_mib << 20, refill_time=1000),
            ops=api.TokenBucket(size=io_mib * _OPERATIONS, refill_time=1000),
        )
    return api.DiskConfig(
        id=name,
        path=f"/{name}",
        readonly=name != WRITABLE,
        image_type="Raw" if version >= _TYPED else None,
        sparse=name == WRITABLE if version >= _SPARSE else None,
        rate_limiter_config=limits,
    )


def kind() -> str:
    """Return a digest that changes with the machine's hardware: other state would not fit."""
    text = machine(Resources(1, 1, 1), _TYPED).model_dump_json(exclude_none=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
