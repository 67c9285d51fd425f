# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's side of the bargain: a specification in, a running machine out.

Implemented by `waggle.infra.qemu` (and `waggle.infra.krun`); used by the local environment host.
Knows nothing of images, SSH or MCP: disks are files, the guest is a port and a console.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from waggle.domain.environment import MachineIdentity, Resources
from waggle.domain.errors import DiskFull

GUEST_SSH_PORT = 22
READY_LINE = b"waggle: ready"
"""What the kit's init prints on the console once the guest accepts SSH connections."""
RAM, STATE, SCRATCH, IDENTITY = "ram", "state", "scratch.img", "identity.img"
"""The files of a machine that is frozen: memory, devices, and its own two disks."""
CONSOLE = "console.log"


@dataclass(frozen=True, slots=True)
class GuestDisks:
    """The four block devices, in order: kit (vda), image (vdb), scratch (vdc), identity (vdd).

    Only the scratch disk is writable. The first two are shared by all machines.
    """

    kit: Path
    image: Path
    scratch: Path
    identity: Path


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Everything a hypervisor needs to boot one machine.

    `ssh_port` on 127.0.0.1 is forwarded to the guest's SSH server and is reserved by the caller
    until the machine is dead. `uid` confines the VMM process when the server runs as root.
    `boot_timeout` is seconds. One in the `background` gives way to all others.
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


class Machine(Protocol):
    """One running virtual machine. Owns its VMM process, sockets and console; not the disks."""

    @property
    def identity(self) -> MachineIdentity:
        """The VMM process, recognisable after a restart of the server."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once the VMM process has ended."""
        ...

    def console_tail(self) -> Sequence[str]:
        """The console's last lines, control characters replaced. The guest wrote them."""
        ...

    async def wait(self) -> str:
        """Return when the machine is dead, with the cause in a few words. Safe to cancel."""
        ...

    async def agent(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost when it does not answer within seconds."""
        ...

    async def renew(self, records: Mapping[str, bytes]) -> None:
        """Give it another identity, fresh random state, and the time, within 50 ms.

        `records` are those of the identity disk, or some of them. Raises GuestLost: it must not be
        used then.
        """
        ...

    def when_stalled(self, tell: Callable[[DiskFull | None], None]) -> None:
        """Call `tell` when it stops because the host's disk refuses a write, with why.

        See `host.Guest`. With None when it goes on. Called at once if it stands still already.
        """
        ...

    async def pause(self) -> None:
        """Stop its processors; its memory stays. Idempotent. Raises GuestLost."""
        ...

    async def unpause(self) -> None:
        """Let it go on, with the right time. Idempotent. Raises GuestLost."""
        ...

    async def stop(self) -> None:
        """End the machine and release what it owns. Idempotent; bounded; finishes when cancelled.

        After it returns the process is gone and the forwarded port is free.
        """
        ...


class Hypervisor(Protocol):
    """A way to boot machines."""

    @property
    def name(self) -> str:
        """`qemu`, `krun`, or the name of a fake."""
        ...

    async def boot(self, spec: MachineSpec) -> Machine:
        """Boot a machine and return it once its guest is ready for SSH.

        Raises BootFailed, with the console's last lines, when the process exits, the kernel
        panics or `boot_timeout` passes. A failed or cancelled boot leaves nothing behind; the
        caller owns the returned machine and must `stop` it.
        """
        ...


class Frozen(Protocol):
    """All of a machine's state but its disks, held in memory. Copies go on from it."""

    def save(self, directory: Path) -> None:
        """Write it to new files in a directory, and to the disk. Blocks. Raises OSError.

        A crash may leave part of it: what counts as whole is for the caller to mark.
        """
        ...

    def close(self) -> None:
        """Free the memory that no machine uses. Idempotent; does nothing to machines."""
        ...


class FreezingHypervisor(Hypervisor, Protocol):
    """A hypervisor that freezes machines and resumes copies of them, any number at once."""

    def fingerprint(self, frozen: Frozen | None = None) -> Mapping[str, str]:
        """What a frozen machine is locked to: it resumes only where all of this is the same.

        Without one, of what would be booted and frozen now. Raises SetupIncomplete without a VMM.
        """
        ...

    def lock(self, fingerprint: Mapping[str, str]) -> str | None:
        """What would have to be another so that a machine of this fingerprint resumes, if anything.

        Such as "version of QEMU". Raises SetupIncomplete without a VMM.
        """
        ...

    async def settle(self, machine: Machine) -> None:
        """Have a machine that nobody is connected to be ready for its copies' first connection.

        Makes those faster; nothing depends on it. Raises GuestLost.
        """
        ...

    async def freeze(self, machine: Machine, spec: MachineSpec) -> Frozen:
        """Copy a running machine's state. It is paused, and stays so whether this works or not.

        `spec` is what it was started with. Copies find the connections to the guest broken. Raises
        BootFailed, GuestLost or OSError. Not to be cancelled; bounded by `boot_timeout`.
        """
        ...

    def load(
        self, directory: Path, fingerprint: Mapping[str, str], *, alone: bool = False
    ) -> Frozen:
        """Read what was saved, of a machine with this fingerprint. Blocks. Raises OSError.

        For one machine `alone`, that one may write to its memory without copying it first.
        """
        ...

    async def resume(self, spec: MachineSpec, frozen: Frozen, *, alone: bool = False) -> Machine:
        """Go on from a frozen machine, as a copy that shares the memory that it does not write.

        It is that machine's twin until it is renewed.

        `spec` must name the same kernel, kit, image and resources, and a scratch disk that is a
        copy of the frozen machine's. It is `alone` if what it goes on from was loaded so. Raises as
        `boot` does; the caller owns the machine.
        """
        ...
