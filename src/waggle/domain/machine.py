# SPDX-License-Identifier: Apache-2.0
"""A machine: its resources, and the protocols of its hypervisor.

The adapters in `waggle.infra` implement them: a specification goes in, a running machine comes out.
Knows nothing of images, SSH or MCP: disks are files, the guest is a port and a console.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from waggle.domain.errors import DiskFull
from waggle.domain.guest_agent import GuestAgent

MAX_PORT = 65_535
GUEST_SSH_PORT = 22
READY_LINE = b"waggle: ready"
"""The kit's init prints this on the console once the guest accepts SSH connections."""
RAM, STATE, SCRATCH, IDENTITY = "ram", "state", "scratch.img", "identity.img"
"""The files of a frozen machine: memory, devices, and its own two disks."""
CONSOLE = "console.log"
Written = Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a machine: virtual CPUs, memory in MiB, writable disk in MiB."""

    cpus: int
    memory_mib: int
    disk_mib: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs, {self.memory_mib} MiB of memory and {self.disk_mib} MiB of disk"


@dataclass(frozen=True, slots=True)
class VmmProcess:
    """A process that can be recognised after a restart: the pid alone may have been reused.

    `started` is in clock ticks since boot, as the kernel counts them; `boot_id` says which boot.
    """

    pid: int
    started: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class GuestDisks:
    """The four block devices, in order: kit (vda), image (vdb), scratch (vdc), identity (vdd).

    Only the scratch disk is writable. All machines share the first two.
    """

    kit: Path
    image: Path
    scratch: Path
    identity: Path


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Everything a hypervisor needs to boot one machine.

    `ssh_port` on 127.0.0.1 is forwarded to the guest's SSH server and is reserved by the caller
    until the machine is dead. `uid` confines the VMM when the server runs as root. `boot_timeout`
    is seconds. A machine in the `background` gives way to all others.
    """

    id: str
    resources: Resources
    kernel: Path
    disks: GuestDisks
    ssh_port: int
    console_log: Path
    boot_timeout: float
    uid: int | None = None
    background: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the machines of one hypervisor can. Ask this, never which hypervisor it is.

    `freezes`: it is a FreezingHypervisor. `stops_when_full`: a machine whose write the host's disk
    refuses stops until there is room; else its guest sees an error. `keeps_connections`: freezing a
    machine leaves its connections open; else they break, and programs continue. `containers`: its
    guest kernel can run containers.
    """

    freezes: bool
    stops_when_full: bool
    keeps_connections: bool = True
    containers: bool = False


class Machine(Protocol):
    """One running virtual machine. Owns its VMM, sockets and console; not the disks."""

    @property
    def identity(self) -> VmmProcess:
        """The VMM, recognisable after a restart of the server."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once the VMM has ended."""
        ...

    def console_tail(self) -> Sequence[str]:
        """Return the console's last lines, control characters replaced. The guest wrote them."""
        ...

    async def wait(self) -> str:
        """Wait until the machine is dead; return the cause in a few words. Safe to cancel."""
        ...

    async def was_killed(self, seconds: float = 0.0) -> bool:
        """Return whether somebody has killed its VMM, or does so within so many seconds."""
        ...

    @property
    def agent(self) -> GuestAgent:
        """The agent in the guest. Raises GuestLost if the machine is dead."""
        ...

    async def renew(self, records: Mapping[str, bytes]) -> None:
        """Give it another identity, fresh random state, and the time, within 50 ms.

        `records` are those of the identity disk, or some of them. Raises GuestLost: it must not be
        used then.
        """
        ...

    def when_stalled(self, notify: Callable[[DiskFull | None], None], /) -> None:
        """Call `notify` with the cause when it stops because the host's disk refuses a write.

        And with None when it resumes; see `host.Guest`. Called at once if it is already stopped.
        """
        ...

    async def pause(self) -> None:
        """Stop its processors; its memory stays. Idempotent. Raises GuestLost."""
        ...

    async def unpause(self) -> None:
        """Resume it, with the right time. Idempotent. Raises GuestLost."""
        ...

    async def settle(self) -> None:
        """Prepare an unconnected machine for the first connection to its copies.

        Makes those faster; nothing depends on it. Raises GuestLost.
        """
        ...

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> FrozenState:
        """Copy the state of a running machine, which is paused and stays so, even on failure.

        `disks` says where its disks are now. Copies find the connections to the guest broken. If
        the state is to be saved `into` a directory on the disk and the machine then stopped, some
        write their memory there at once; if it resumed from the file RAM there, only its changes.
        `written` is called once no more of the server's memory is taken: the rest may take long.
        Raises Unsupported if its hypervisor freezes none, BootFailed, GuestLost or OSError. Not to
        be cancelled; bounded by `boot_timeout`.
        """
        ...

    async def shut_down(self, seconds: float) -> bool:
        """Have the guest end: its programs have so many seconds, then its disk is written whole.

        Returns whether it has ended; if not, in a bounded time, it may be in the middle of it, and
        `stop` leaves the disk as a power cut would. Does not raise. A paused machine continues
        first. The caller still stops the machine. Safe to cancel.
        """
        ...

    async def stop(self) -> None:
        """End the machine and release what it owns. Idempotent; bounded; finishes when cancelled.

        After it returns the process is gone and the forwarded port is free.
        """
        ...


class Hypervisor(Protocol):
    """A way to run machines."""

    @property
    def name(self) -> str:
        """The name that the operator knows it by."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What its machines can; never changes."""
        ...

    async def boot(self, spec: MachineSpec) -> Machine:
        """Boot a machine and return it once its guest is ready for SSH.

        Raises BootFailed, with the console's last lines, when the process exits, the kernel panics
        or `boot_timeout` passes. A failed or cancelled boot leaves nothing behind; the caller owns
        the returned machine and must `stop` it.
        """
        ...


class FrozenState(Protocol):
    """A machine's whole state except its disks, in two open files. Copies resume from it."""

    @property
    def vmm(self) -> str:
        """The VMM's program that the state is locked to."""
        ...

    @property
    def ram(self) -> int:
        """The descriptor of its memory."""
        ...

    @property
    def state(self) -> int:
        """The descriptor of the state of its devices."""
        ...

    @property
    def is_on_disk(self) -> bool:
        """Whether its memory is a file on the disk, which the one machine that resumes maps."""
        ...

    @property
    def changed(self) -> Sequence[tuple[int, int]] | None:
        """The ranges of it, begin and end, that differ from before; None for a new file."""
        ...

    def save(self, directory: Path) -> None:
        """Write what is not on the disk to new files in a directory, and flush it. Blocks.

        Raises OSError. A crash may leave part of it: the caller marks a complete one.
        """
        ...

    def close(self) -> None:
        """Free the memory that no machine uses. Idempotent; does not affect machines."""
        ...


class FreezingHypervisor(Hypervisor, Protocol):
    """A hypervisor whose machines can be frozen; it resumes any number of copies at once."""

    def fingerprint(self, frozen: FrozenState | None = None) -> Mapping[str, str]:
        """Return the properties that must be the same wherever a frozen machine resumes.

        Without `frozen`, those of a machine booted and frozen now. Raises SetupIncomplete without a
        VMM.
        """
        ...

    def lock(self, fingerprint: Mapping[str, str]) -> str | None:
        """Return which property keeps a machine of this fingerprint from resuming, or None.

        Raises SetupIncomplete without a VMM.
        """
        ...

    def load(
        self, directory: Path, fingerprint: Mapping[str, str], *, alone: bool = False
    ) -> FrozenState:
        """Read the saved state of a machine with this fingerprint. Blocks. Raises OSError.

        One machine `alone` may write to its memory without copying it first.
        """
        ...

    async def resume(
        self, spec: MachineSpec, frozen: FrozenState, *, alone: bool = False
    ) -> Machine:
        """Resume a frozen machine as a copy that shares the memory that it does not write.

        It is that machine's twin until it is renewed. `spec` must name the same kernel, kit, image
        and resources, and a scratch disk that is a copy of the frozen machine's. `alone` must be as
        in `load`. Raises as `boot` does; the caller owns the machine.
        """
        ...
