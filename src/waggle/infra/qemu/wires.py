# SPDX-License-Identifier: Apache-2.0
"""What connects a QEMU to the server: socket pairs, a port, and files that it gets as descriptors.

Used by `hypervisor` only. Opens and closes; knows nothing of what is said over them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import BootFailed
from waggle.domain.machine import MachineSpec
from waggle.infra.guest.forwarder import claim
from waggle.infra.qemu.argv import Descriptors


@dataclass(frozen=True, slots=True)
class Wires:
    """Our ends: QMP, the guest's console and agent, its renewal, QEMU's own error messages.

    `door` brings the sockets that lead to the guest, and `listener` is the port that leads there; a
    QEMU whose machine never runs has neither.
    """

    monitor: socket.socket
    console: socket.socket
    agent: socket.socket
    renewal: socket.socket
    messages: socket.socket
    door: socket.socket | None
    listener: socket.socket | None

    def close(self) -> None:
        """Close all that still is open. Idempotent."""
        for end in (self.monitor, self.console, self.agent, self.renewal, self.messages):
            end.close()
        for each in (self.door, self.listener):
            if each is not None:
                each.close()


@dataclass(frozen=True, slots=True)
class Inherited:
    """QEMU's ends; they are of no use to the server once QEMU runs."""

    descriptors: Descriptors
    messages: int
    door: int | None


def open_wires(
    spec: MachineSpec,
    ours: contextlib.ExitStack,
    theirs: contextlib.ExitStack,
    *,
    reachable: bool,
) -> tuple[Wires, Inherited]:
    """Open everything one QEMU needs; each end is put on the stack of its owner.

    Raises BootFailed when a file cannot be opened, PortTaken, OSError when descriptors run out.
    """
    files = [
        _open(path, flags, theirs)
        for path, flags in (
            (spec.kernel, os.O_RDONLY),
            (spec.disks.kit, os.O_RDONLY),
            (spec.disks.image, os.O_RDONLY),
            (spec.disks.scratch, os.O_RDWR),
            (spec.disks.identity, os.O_RDONLY),
        )
    ]
    listener = None
    if reachable:
        listener = claim(spec.ssh_port)
        ours.callback(listener.close)
    ends: list[socket.socket] = []
    others: list[int] = []
    for _ in range(6 if reachable else 5):
        end, other = socket.socketpair()
        ours.callback(end.close)
        theirs.callback(other.close)
        end.setblocking(False)
        ends.append(end)
        others.append(other.fileno())
    door = ends.pop() if reachable else None
    door_number = others.pop() if reachable else None
    monitor, console, agent, renewal, messages = others
    descriptors = Descriptors(
        *files,
        monitor=monitor,
        console=console,
        agent=agent,
        renewal=renewal,
    )
    wires = Wires(*ends, door=door, listener=listener)
    return wires, Inherited(descriptors, messages, door_number)


def _open(path: Path, flags: int, stack: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise BootFailed(f"{path.name} cannot be opened: {error.strerror}.") from error
    stack.callback(os.close, descriptor)
    return descriptor
