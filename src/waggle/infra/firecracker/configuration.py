# SPDX-License-Identifier: Apache-2.0
"""What makes a machine on Firecracker: files that it reads, calls, and its kernel's command line.

Pure: `hypervisor` starts it and `machine` makes the calls. All paths are those below the VMM's own
root (`vmm.starter`), which are the same for every machine, so a copy of a frozen one finds them
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from waggle.domain.errors import BootFailed
from waggle.domain.machine import Resources
from waggle.infra.guest.link import KERNEL_ARGUMENTS
from waggle.infra.guest.vsock import CHANNELS_ARGUMENT
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.firecracker.machine import CpuidLeafModifier, CpuidRegisterModifier
from waggle.infra.vmm.machine import API_SOCKET, VSOCK, path
from waggle.infra.vmm.version import Version
from waggle.infra.vmm.wires import DRIVES, KERNEL, WRITABLE

MACHINE: Final = "machine.json"
_PROCESSORS: Final = "processors.json"
"""The names of these files at the machine's root: the second is a part of the first."""
STATE, MEMORY = "state", "memory"
"""The names of these files in the machine's /run."""
INHERITED: Final = "/proc/self/fd/0"
"""Standard input: the memory that copies share, which is mapped privately."""
MAX_CPUS: Final = 32
_GUEST_CID = 3
_OPERATIONS = 64
"""Disk reads or writes a second for every MiB a second, as in a machine's control group."""
_REFUSED = "RunWithApiError error: "
_REPORTING, _TRACKS = Version(1, 14), Version(1, 13)
"""From the first on a balloon returns what the guest has freed; before, it would do nothing."""


def _without(leaf: str, bit: int) -> CpuidLeafModifier:
    """Take a feature of register ECX from the processors."""
    bitmap = f"0b{'x' * (31 - bit)}0{'x' * bit}"
    changed = CpuidRegisterModifier(register_="ecx", bitmap=bitmap)
    return CpuidLeafModifier(leaf=leaf, subleaf="0x0", flags=0, modifiers=[changed])


_NO_NESTING: Final = api.CpuConfig(cpuid_modifiers=[_without("0x1", 5), _without("0x80000001", 2)])
"""Without VMX and SVM, see `qemu.argv`."""

Call = tuple[Endpoint[Any, None], BaseModel]
COMMAND_LINE: Final = " ".join(
    [
        *(word for word in KERNEL_ARGUMENTS.split() if not word.startswith("console=")),
        CHANNELS_ARGUMENT,
        "reboot=k no-kvmapf",
    ]
)
"""Firecracker appends its devices. There is no console; a reset by the keyboard's ends the VMM."""


def arguments(*, boots: bool) -> tuple[str, ...]:
    """Return the command line of a Firecracker that boots a machine, or else waits for calls."""
    config = ("--config-file", f"/{MACHINE}") if boots else ()
    return ("--api-sock", path(API_SOCKET), "--level", "Error", *config)


def texts(resources: Resources, version: Version, io_mib: int = 0) -> dict[str, str]:
    """Return the files that a Firecracker reads to boot a machine, by name: fewer steps than calls.

    The oldest takes its processors only from a file of their own. `io_mib` and errors as `machine`.
    """
    made = machine(resources, version, io_mib).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    processors = json.dumps(made["cpu-config"])
    return {
        MACHINE: json.dumps({**made, "cpu-config": f"/{_PROCESSORS}"}),
        _PROCESSORS: processors,
    }


def machine(resources: Resources, version: Version, io_mib: int = 0) -> api.FullVmConfiguration:
    """Return the whole configuration of a machine that boots.

    `io_mib` is MiB a second of the scratch disk in each direction, 0 for no limit. Raises
    BootFailed for resources that Firecracker gives no machine.
    """
    if not 1 <= resources.cpus <= MAX_CPUS:
        raise BootFailed(f"Firecracker gives a machine at most {MAX_CPUS} processors.")
    balloon = api.Balloon(
        amount_mib=0,
        deflate_on_oom=True,
        stats_polling_interval_s=0,
        free_page_reporting=True,
    )
    return api.FullVmConfiguration(
        machine_config=api.MachineConfiguration(
            vcpu_count=resources.cpus, mem_size_mib=resources.memory_mib, track_dirty_pages=False
        ),
        cpu_config=_NO_NESTING,
        boot_source=api.BootSource(kernel_image_path=f"/{KERNEL}", boot_args=COMMAND_LINE),
        drives=[_drive(name, io_mib) for name in DRIVES],
        vsock=api.Vsock(guest_cid=_GUEST_CID, uds_path=path(VSOCK)),
        balloon=balloon if version >= _REPORTING else None,
        entropy=api.EntropyDevice(),
    )


def refusal(messages: Sequence[str]) -> str | None:
    """Return why a Firecracker that has ended made no machine, in its own words, if it says so."""
    for line in reversed(messages):
        _, found, reason = line.partition(_REFUSED)
        if found and reason:
            return reason.rstrip(".")
    return None


def _drive(name: str, io_mib: int) -> api.Drive:
    """Return a drive. `Unsafe` ignores flushes: the scratch disk dies with the VMM."""
    return api.Drive(
        drive_id=name,
        path_on_host=f"/{name}",
        is_root_device=False,  # the command line names it
        is_read_only=name != WRITABLE,
        cache_type="Unsafe",
        rate_limiter=_limits(io_mib) if name == WRITABLE and io_mib else None,
    )


def _limits(io_mib: int) -> api.RateLimiter:
    """Return the limits of a disk; 0 takes those away that it has."""
    time = 1000 if io_mib else 0
    return api.RateLimiter(
        bandwidth=api.TokenBucket(size=io_mib << 20, refill_time=time),
        ops=api.TokenBucket(size=io_mib * _OPERATIONS, refill_time=time),
    )


def limit_call(io_mib: int) -> Call:
    """Return the call that limits the scratch disk of a copy: its state has those of its boot."""
    disk = api.PartialDrive(drive_id=WRITABLE, rate_limiter=_limits(io_mib))
    return (api.PATCH_GUEST_DRIVE_BY_ID, disk)


def load_call(version: Version) -> Call:
    """Return the call that makes and starts a copy from the state in /run and inherited memory.

    Its changes are tracked, so that only they are written when it is frozen for the first time.
    """
    is_new = version >= _TRACKS
    load = api.SnapshotLoadParams(
        snapshot_path=path(STATE),
        mem_backend=api.MemoryBackend(backend_type="File", backend_path=INHERITED),
        resume_vm=True,
        enable_diff_snapshots=None if is_new else True,
        track_dirty_pages=True if is_new else None,
    )
    return (api.LOAD_SNAPSHOT, load)


def freeze_call(*, changes: bool) -> Call:
    """Return the call that writes devices and memory, or only its `changes`, to /run."""
    return (
        api.CREATE_SNAPSHOT,
        api.SnapshotCreateParams(
            snapshot_path=path(STATE),
            mem_file_path=path(MEMORY),
            snapshot_type="Diff" if changes else "Full",
        ),
    )


def kind() -> str:
    """Return a digest that changes with the machine's hardware: other state would not fit.

    It is that of the calls which made such a machine before it was read from a file.
    """
    made = machine(Resources(1, 1, 1), _REPORTING)
    devices = (*(made.drives or ()), made.vsock, made.balloon, made.entropy)
    start = api.InstanceActionInfo(action_type="InstanceStart")
    bodies = (made.machine_config, made.cpu_config, made.boot_source, *devices, start)
    text = json.dumps([one and one.model_dump(mode="json") for one in bodies], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
