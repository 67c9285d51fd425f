# SPDX-License-Identifier: Apache-2.0
"""What a VMM with an API gets of the server before it starts: files, a port, its way to complain.

`hypervisor` opens them and `machine` closes them. Everything else lies in the VMM's /run, which
exists only once it has started. Knows no API.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Final

from waggle.domain.machine import MachineSpec
from waggle.infra.guest.forwarder import claim
from waggle.infra.guest.link import open_file, socket_pair

KERNEL: Final = "kernel"
INITRD: Final = "initrd"
DRIVES: Final = ("kit", "image", "scratch", "identity")
"""In the order in which the guest finds them, and the names of their files below the root."""
WRITABLE: Final = "scratch"


@dataclass(frozen=True, slots=True)
class Wires:
    """The server's ends: the VMM's messages, and the forwarded port."""

    messages: socket.socket
    listener: socket.socket

    def close(self) -> None:
        """Close both. Idempotent."""
        self.messages.close()
        self.listener.close()


@dataclass(frozen=True, slots=True)
class Inherited:
    """The VMM's ends; the server does not need them once the VMM runs.

    `files` are those that it finds at its root, by name, and whether it may write them.
    """

    files: dict[str, tuple[int, bool]]
    messages: int


def open_wires(
    spec: MachineSpec,
    ours: contextlib.ExitStack,
    theirs: contextlib.ExitStack,
    *,
    initrd: bool = False,
) -> tuple[Wires, Inherited]:
    """Open everything one VMM needs; the two stacks close the two sides' ends.

    With `initrd` also the initramfs, which lies beside the kernel with that ending. The VMM opens
    its files as its own user, who is given access to those that are its own. Raises BootFailed when
    a file cannot be opened, PortTaken, OSError when descriptors run out.
    """
    files = {KERNEL: (open_file(spec.kernel, theirs), False)}
    if initrd:
        files[INITRD] = (open_file(spec.kernel.with_suffix(f".{INITRD}"), theirs), False)
    for name in DRIVES:
        flags = os.O_RDWR if name == WRITABLE else os.O_RDONLY
        files[name] = (open_file(getattr(spec.disks, name), theirs, flags), name == WRITABLE)
    listener = claim(spec.ssh_port)
    ours.callback(listener.close)
    messages, theirs_messages = socket_pair(ours, theirs)
    if spec.uid is not None:
        for name, mode in ((WRITABLE, 0o660), ("identity", 0o640)):
            os.fchown(files[name][0], -1, spec.uid)
            os.fchmod(files[name][0], mode)
    return Wires(messages, listener), Inherited(files, theirs_messages)
