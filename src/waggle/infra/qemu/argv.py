# SPDX-License-Identifier: Apache-2.0
"""The QEMU command line, as a pure function of the machine's specification.

Everything that QEMU opens arrives as a descriptor, so the confined process needs no path of ours.
Facts behind the flags: the kernel has virtio-mmio only, no PCI, ACPI, 8250 or initrd; without a
PIT and PIC it hangs under TCG before it prints; with `-no-reboot`, a guest reboot ends QEMU. On a
busy host an emulated timer ticks too late for the kernel's check of it, which then panics before
there is a console; with KVM the kernel leaves that check out by itself, and has a clock.

The way to a QEMU's guest: sockets of the network that QEMU alone is in.

Used by the forwarder of a machine. A socket belongs to the network it was made in, whoever holds
it, so the server connects without entering that network. What was connected is disconnected and
used again: see connect(2), AF_UNSPEC.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import hashlib
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from waggle.domain.environment import Resources
from waggle.domain.machine import GUEST_SSH_PORT
from waggle.infra.guest.link import AGENT_PORT, KERNEL_ARGUMENTS, RENEWAL_PORT
from waggle.infra.qemu.starter import SOCKETS

ADDRESS = "127.0.0.2"
"""Not .1: where the kernel allows no namespaces, the server itself has the port there."""
_libc = ctypes.CDLL(None, use_errno=True)
_UNSPECIFIED = bytes(16)


class Door:
    """`wire` remains the caller's, the sockets are this one's until `close`."""

    def __init__(self, wire: socket.socket, port: int) -> None:
        self._wire = wire
        self._port = port
        self._all: list[socket.socket] = []
        self._free: asyncio.LifoQueue[socket.socket] = asyncio.LifoQueue()

    def open(self) -> None:
        """Take the sockets, which came before QEMU began. Raises BlockingIOError without them."""
        _, descriptors, _, _ = socket.recv_fds(self._wire, 1, SOCKETS)
        for descriptor in descriptors:
            made = socket.socket(fileno=descriptor)
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._all.append(made)
            self._free.put_nowait(made)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """One connection; waits for a socket when all are in use. Raises OSError."""
        guest = await self._free.get()
        try:
            await asyncio.get_running_loop().sock_connect(guest, (ADDRESS, self._port))
            yield guest
        finally:
            _libc.connect(guest.fileno(), _UNSPECIFIED, len(_UNSPECIFIED))
            self._free.put_nowait(guest)

    def close(self) -> None:
        """Close every socket. Idempotent; nobody may be connected."""
        for each in self._all:
            each.close()


COMMAND_LINE = f"{KERNEL_ARGUMENTS} reboot=t no_timer_check"
MACHINE = "microvm,acpi=off,isa-serial=off,rtc=on,pcie=off,usb=off"
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_STAND_STILL = "werror=stop"
"""A write that fails on the host stops the machine, and is done when it goes on: see `stalling`."""
_TRANSLATION_BUFFER_MIB = 256
"""A boot alone fills 64, and QEMU then drops all translated code. Costs memory as it is used."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """File descriptors that the process inherits. The sockets are connected."""

    kernel: int
    kit: int
    image: int
    scratch: int
    identity: int
    monitor: int
    console: int
    agent: int
    renewal: int

    def all(self) -> tuple[int, ...]:
        """Every one of them, in the order of the fields."""
        disks = (self.kit, self.image, self.scratch, self.identity)
        channels = (self.monitor, self.console, self.agent, self.renewal)
        return (self.kernel, *disks, *channels)


@dataclass(frozen=True, slots=True)
class Memory:
    """A file that is the machine's memory. What it writes is its own unless that is `shared`."""

    descriptor: int
    shared: bool


def qemu_argv(
    binary: str,
    *,
    accelerator: str,
    resources: Resources,
    ssh_port: int | None,
    fds: Descriptors,
    memory: Memory | None = None,
    incoming: bool = False,
    tsc_khz: int | None = None,
) -> list[str]:
    """The whole command line. `accelerator` is `kvm` or `tcg`; `tsc_khz` is for the latter.

    One with `incoming` state does not boot but waits for it.
    """
    accel = "kvm"
    if accelerator == "tcg":
        accel = f"tcg,thread=multi,tb-size={_TRANSLATION_BUFFER_MIB}"
    return [
        *(binary, "-M", f"{MACHINE},memory-backend=ram"),
        *("-object", _memory(memory, resources.memory_mib)),
        *(("-incoming", "defer") if incoming else ()),
        *("-accel", accel, "-cpu", "host" if accelerator == "kvm" else "max"),
        *("-smp", str(resources.cpus), "-m", f"{resources.memory_mib}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-kernel", f"/proc/self/fd/{fds.kernel}", "-append", command_line(tsc_khz)),
        *_channels(fds),
        *("-netdev", _network(ssh_port)),
        *("-device", "virtio-net-device,netdev=net0", "-device", "virtio-rng-device"),
        *("-device", "virtio-balloon-device,free-page-reporting=on"),
        *_disk("kit", fds.kit, 1, read_only=True),
        *_disk("image", fds.image, 2, read_only=True),
        *_disk("scratch", fds.scratch, 3, read_only=False),
        *_disk("identity", fds.identity, 4, read_only=True),
    ]


@functools.lru_cache(maxsize=2)
def kind(accelerator: str) -> str:
    """Another text when machines are put together in another way: their state would not fit.

    What a write that fails does to a machine is not in its state: those that were frozen while it
    was reported to them go on, too.
    """
    resources, nothing = Resources(1, 1, 1), Descriptors(*range(9))
    argv = qemu_argv("", accelerator=accelerator, resources=resources, ssh_port=None, fds=nothing)
    text = "\0".join(argv).replace(_STAND_STILL, "werror=report")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def command_line(tsc_khz: int | None) -> str:
    """The kernel's, with the frequency of its time stamp counter where it cannot be measured."""
    return COMMAND_LINE if not tsc_khz else f"{COMMAND_LINE} tsc_early_khz={tsc_khz} tsc=reliable"


def _memory(memory: Memory | None, mib: int) -> str:
    """Always by the same name, by which one QEMU hands it to another."""
    if memory is None:
        return f"memory-backend-ram,id=ram,size={mib}M"
    share = "on" if memory.shared else "off"
    path = f"/proc/self/fd/{memory.descriptor}"
    return f"memory-backend-file,id=ram,size={mib}M,mem-path={path},share={share}"


def _network(ssh_port: int | None) -> str:
    """No way out, and one way in, which the door of this machine leads to."""
    way_in = "" if ssh_port is None else f",hostfwd=tcp:{ADDRESS}:{ssh_port}-:{GUEST_SSH_PORT}"
    return f"user,id=net0,restrict=on,ipv6=off{way_in}"


def _channels(fds: Descriptors) -> list[str]:
    return [
        *(
            "-chardev",
            f"socket,id=monitor,fd={fds.monitor}",
            "-mon",
            "chardev=monitor,mode=control",
        ),
        *("-device", "virtio-serial-device"),
        *(
            "-chardev",
            f"socket,id=console,fd={fds.console}",
            "-device",
            "virtconsole,chardev=console",
        ),
        *("-chardev", f"socket,id=agent,fd={fds.agent}"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-chardev", f"socket,id=renewal,fd={fds.renewal}"),
        *("-device", f"virtserialport,chardev=renewal,name={RENEWAL_PORT}"),
    ]


def _disk(name: str, fd: int, fd_set: int, *, read_only: bool) -> list[str]:
    """One virtio block device. The scratch disk dies with the machine: flushes are not obeyed."""
    file = f"driver=file,node-name={name}-file,filename=/dev/fdset/{fd_set}"
    raw = f"driver=raw,node-name={name},file={name}-file"
    if read_only:
        file, raw = f"{file},read-only=on", f"{raw},read-only=on"
    else:
        file, raw = (
            f"{file},cache.no-flush=on,discard=unmap",
            f"{raw},cache.no-flush=on,discard=unmap",
        )
    device = f"virtio-blk-device,drive={name}"
    return [
        *("-add-fd", f"fd={fd},set={fd_set}", "-blockdev", file, "-blockdev", raw),
        *("-device", device if read_only else f"{device},{_STAND_STILL},rerror=report"),
    ]
