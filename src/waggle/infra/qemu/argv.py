# SPDX-License-Identifier: Apache-2.0
"""The QEMU command line, the wires between QEMU and the server, and the way to its guest.

QEMU gets everything that it opens as a descriptor, so the confined process needs no path of the
host. The command line is a pure function of the machine's specification. `hypervisor` opens the
wires (socket pairs, a port, inherited files); `machine` closes them, and its forwarder uses the
`Door`. Knows nothing of the data that is sent over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import hashlib
import os
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, NamedTuple

from waggle.domain.machine import GUEST_SSH_PORT, MachineSpec, Resources
from waggle.infra.guest.forwarder import claim
from waggle.infra.guest.link import RENEWAL_PORT, open_file, socket_pair
from waggle.infra.guest.protocol import PORT
from waggle.infra.qemu.board import SMALL, Board
from waggle.infra.qemu.starter import SOCKETS

ADDRESS = "127.0.0.2"
"""Not .1: where the kernel allows no namespaces, the server holds the same port there."""
_libc = ctypes.CDLL(None, use_errno=True)
_UNSPECIFIED = bytes(16)


class Door:
    """The way to a QEMU's guest: sockets of the network that only QEMU is in.

    A socket belongs to the network in which it was made, so the server connects without entering
    that network. Used sockets are disconnected and reused: see connect(2), AF_UNSPEC. The caller
    keeps `wire`; the door owns the sockets until `close`.
    """

    def __init__(self, wire: socket.socket, port: int) -> None:
        self._wire = wire
        self._port = port
        self._all: list[socket.socket] = []
        self._free: asyncio.LifoQueue[socket.socket] = asyncio.LifoQueue()

    def open(self) -> None:
        """Take the sockets sent before QEMU began. Raises BlockingIOError without them."""
        _, descriptors, _, _ = socket.recv_fds(self._wire, 1, SOCKETS)
        for descriptor in descriptors:
            made = socket.socket(fileno=descriptor)
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._all.append(made)
            self._free.put_nowait(made)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """Open one connection; wait for a socket when all are in use. Raises OSError."""
        guest = await self._free.get()
        try:
            await asyncio.get_running_loop().sock_connect(guest, (ADDRESS, self._port))
            yield guest
        finally:
            _libc.connect(guest.fileno(), _UNSPECIFIED, len(_UNSPECIFIED))
            self._free.put_nowait(guest)

    def close(self) -> None:
        """Close every socket. Idempotent; no connection may be open."""
        for guest in self._all:
            guest.close()


_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_STOP_ON_ERROR = "werror=stop"
"""A write that fails on the host stops the machine and is repeated at resume: see `Stalling`."""
_FORMER_PORT = "org.qemu.guest_agent.0"
_TRANSLATION_BUFFER_MIB = 256
"""A boot alone fills 64, and QEMU then drops all translated code. Only used pages cost memory."""


class Descriptors(NamedTuple):
    """The file descriptors that the process inherits. The sockets are connected."""

    kernel: int
    kit: int
    image: int
    scratch: int
    identity: int
    monitor: int
    console: int
    agent: int
    renewal: int
    initrd: int | None = None
    """For the boards that have one."""

    def open(self) -> list[int]:
        """Return those that there are."""
        return [descriptor for descriptor in self if descriptor is not None]


class Memory(NamedTuple):
    """The file that is the machine's memory. Its writes stay private unless it is `shared`."""

    descriptor: int
    shared: bool


_SLOW_STRINGS = ",erms=off,fsrm=off"
PROCESSORS: Final = {
    "kvm": "host,vmx=off,svm=off",
    "tcg": f"max,vmx=off,svm=off,min-xlevel=0x8000000a{_SLOW_STRINGS}",
}
"""Without VMX and SVM: no guest needs machines of its own, and the host's KVM, which would have to
emulate them, has had holes there. QEMU's own would end the list of leaves before that of the caches
without SVM, and OpenBLAS complain of it. It says that string instructions copy fast, but emulates
them slowly: programs that copy much take a quarter to a third less time without."""


def qemu_argv(
    binary: str,
    *,
    accelerator: str,
    resources: Resources,
    ssh_port: int | None,
    fds: Descriptors,
    board: Board = SMALL,
    memory: Memory | None = None,
    incoming: bool = False,
) -> list[str]:
    """Return the whole command line. `accelerator` is `kvm` or `tcg`.

    With `incoming`, the machine does not boot but waits for its state.
    """
    accel = "kvm"
    if accelerator == "tcg":
        accel = f"tcg,thread=multi,tb-size={_TRANSLATION_BUFFER_MIB}"
    return [
        *(binary, "-M", f"{board.machine},memory-backend=ram"),
        *("-object", _memory(memory, resources.memory_mib)),
        *(("-incoming", "defer") if incoming else ()),
        *("-accel", accel, "-cpu", PROCESSORS[accelerator]),
        *("-smp", str(resources.cpus), "-m", f"{resources.memory_mib}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-kernel", f"/proc/self/fd/{fds.kernel}", "-append", board.command_line),
        *(() if fds.initrd is None else ("-initrd", f"/proc/self/fd/{fds.initrd}")),
        *_channels(board, fds),
        *("-netdev", _network(ssh_port)),
        *board.device("net", ",netdev=net0"),
        *board.device("rng"),
        *board.device("balloon", ",free-page-reporting=on"),
        *_disk(board, "kit", fds.kit, 1, read_only=True),
        *_disk(board, "image", fds.image, 2, read_only=True),
        *_disk(board, "scratch", fds.scratch, 3, read_only=False),
        *_disk(board, "identity", fds.identity, 4, read_only=True),
    ]


@functools.lru_cache(maxsize=4)
def kind(accelerator: str, board: Board = SMALL) -> str:
    """Return a digest that changes with the machine's hardware: other state would not fit.

    The policy for failed writes, the names of ports and what the processor says of its string
    instructions are not part of the state: machines that were frozen with others can be resumed.
    """
    resources, nothing = Resources(1, 1, 1), Descriptors(*range(9))
    argv = qemu_argv(
        "", accelerator=accelerator, resources=resources, ssh_port=None, fds=nothing, board=board
    )
    text = "\0".join(argv).replace(_STOP_ON_ERROR, "werror=report").replace(PORT, _FORMER_PORT)
    text = text.replace(_SLOW_STRINGS, "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _memory(memory: Memory | None, mib: int) -> str:
    """Return the memory object, always with the same id, because QEMUs exchange memory by id."""
    if memory is None:
        return f"memory-backend-ram,id=ram,size={mib}M"
    share = "on" if memory.shared else "off"
    path = f"/proc/self/fd/{memory.descriptor}"
    return f"memory-backend-file,id=ram,size={mib}M,mem-path={path},share={share}"


def _network(ssh_port: int | None) -> str:
    """Return the network: no way out, and one way in, which the machine's `Door` connects to."""
    way_in = "" if ssh_port is None else f",hostfwd=tcp:{ADDRESS}:{ssh_port}-:{GUEST_SSH_PORT}"
    return f"user,id=net0,restrict=on,ipv6=off{way_in}"


def _channels(board: Board, fds: Descriptors) -> list[str]:
    return [
        *("-chardev", f"socket,id=monitor,fd={fds.monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
        *board.device("serial"),
        *("-chardev", f"socket,id=console,fd={fds.console}"),
        *("-device", "virtconsole,chardev=console"),
        *("-chardev", f"socket,id=agent,fd={fds.agent}"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
        *("-chardev", f"socket,id=renewal,fd={fds.renewal}"),
        *("-device", f"virtserialport,chardev=renewal,name={RENEWAL_PORT}"),
    ]


def _disk(board: Board, name: str, fd: int, fd_set: int, *, read_only: bool) -> list[str]:
    """Return one virtio block device. Flushes are ignored: the scratch disk dies with the VMM."""
    file = f"driver=file,node-name={name}-file,filename=/dev/fdset/{fd_set}"
    raw = f"driver=raw,node-name={name},file={name}-file"
    if read_only:
        file, raw = f"{file},read-only=on", f"{raw},read-only=on"
    else:
        loose = "cache.no-flush=on,discard=unmap"
        file, raw = f"{file},{loose}", f"{raw},{loose}"
    on_error = "" if read_only else f",{_STOP_ON_ERROR},rerror=report"
    return [
        *("-add-fd", f"fd={fd},set={fd_set}", "-blockdev", file, "-blockdev", raw),
        *board.device("blk", f",drive={name}{on_error}"),
    ]


@dataclass(frozen=True, slots=True)
class Wires:
    """The server's ends: QMP, the guest's console, agent and renewal, QEMU's error messages.

    `door` delivers the sockets that lead to the guest, and `listener` is the forwarded port; a QEMU
    whose machine never runs has neither.
    """

    monitor: socket.socket
    console: socket.socket
    agent: socket.socket
    renewal: socket.socket
    messages: socket.socket
    door: socket.socket | None
    listener: socket.socket | None

    def close(self) -> None:
        """Close everything that is still open. Idempotent."""
        for end in (self.monitor, self.console, self.agent, self.renewal, self.messages):
            end.close()
        for end in (self.door, self.listener):
            if end is not None:
                end.close()


class Inherited(NamedTuple):
    """QEMU's ends; the server does not need them once QEMU runs."""

    descriptors: Descriptors
    messages: int
    door: int | None


def open_wires(
    spec: MachineSpec,
    ours: contextlib.ExitStack,
    theirs: contextlib.ExitStack,
    *,
    reachable: bool,
    board: Board = SMALL,
) -> tuple[Wires, Inherited]:
    """Open everything one QEMU needs; the two stacks close the two sides' ends.

    The initramfs of a board that needs one lies beside its kernel, with the ending `.initrd`.

    Raises BootFailed when a file cannot be opened, PortTaken, OSError when descriptors run out.
    """
    disks = spec.disks
    files = [
        open_file(path, theirs, os.O_RDWR if path == disks.scratch else os.O_RDONLY)
        for path in (spec.kernel, disks.kit, disks.image, disks.scratch, disks.identity)
    ]
    initrd = open_file(spec.kernel.with_suffix(".initrd"), theirs) if board.has_initrd else None
    listener = None
    if reachable:
        listener = claim(spec.ssh_port)
        ours.callback(listener.close)
    ends: list[socket.socket] = []
    others: list[int] = []
    for _ in range(6 if reachable else 5):
        end, other = socket_pair(ours, theirs)
        ends.append(end)
        others.append(other)
    door = ends.pop() if reachable else None
    door_number = others.pop() if reachable else None
    *channels, messages = others
    wires = Wires(*ends, door=door, listener=listener)
    return wires, Inherited(
        Descriptors(*files, *channels)._replace(initrd=initrd), messages, door_number
    )
