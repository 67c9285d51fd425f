# SPDX-License-Identifier: Apache-2.0
"""What connects a QEMU to the server: five socket pairs, and the files that it gets as descriptors.

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
from waggle.infra.qemu.argv import Descriptors


@dataclass(frozen=True, slots=True)
class Wires:
    """Our ends: QMP, the guest's console and agent, its renewal, QEMU's own error messages."""

    monitor: socket.socket
    console: socket.socket
    agent: socket.socket
    renewal: socket.socket
    messages: socket.socket

    def close(self) -> None:
        """Close all that still is open. Idempotent."""
        for end in (self.monitor, self.console, self.agent, self.renewal, self.messages):
            end.close()


@dataclass(frozen=True, slots=True)
class Inherited:
    """QEMU's ends; they are of no use to the server once QEMU runs."""

    descriptors: Descriptors
    messages: int


def open_wires(
    spec: MachineSpec, ours: contextlib.ExitStack, theirs: contextlib.ExitStack
) -> tuple[Wires, Inherited]:
    """Open everything one QEMU needs; each end is put on the stack of its owner.

    Raises BootFailed when a file cannot be opened, OSError when descriptors run out.
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
    ends: list[socket.socket] = []
    others: list[int] = []
    for _ in range(5):
        end, other = socket.socketpair()
        ours.callback(end.close)
        theirs.callback(other.close)
        end.setblocking(False)
        ends.append(end)
        others.append(other.fileno())
    monitor, console, agent, renewal, messages = others
    descriptors = Descriptors(
        *files,
        monitor=monitor,
        console=console,
        agent=agent,
        renewal=renewal,
    )
    return Wires(*ends), Inherited(descriptors, messages)


def _open(path: Path, flags: int, stack: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise BootFailed(f"{path.name} cannot be opened: {error.strerror}.") from error
    stack.callback(os.close, descriptor)
    return descriptor
