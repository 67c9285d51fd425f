# SPDX-License-Identifier: Apache-2.0
"""The connections between a QEMU and the server: socket pairs, a port, and inherited files.

Opened by `hypervisor`, closed by `machine`; knows nothing of what is sent over them.
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
        for each in (self.door, self.listener):
            if each is not None:
                each.close()


@dataclass(frozen=True, slots=True)
class Inherited:
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
) -> tuple[Wires, Inherited]:
    """Open everything one QEMU needs; the two stacks close the two sides' ends.

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
