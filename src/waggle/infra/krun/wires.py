# SPDX-License-Identifier: Apache-2.0
"""The connections between a runner and the server: files, channels and the way to the guest.

`machine` uses them. `open_wires` gives the runner's user access to them. Knows nothing of the data
that is sent.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from waggle.domain.machine import MachineSpec
from waggle.infra.guest.forwarder import claim
from waggle.infra.guest.link import open_file, socket_pair
from waggle.infra.shared.foreign import remove_directory

SOCKET = "ssh"


@dataclass(frozen=True, slots=True)
class Wires:
    """The server's ends: console, agent, renewal, the runner's messages, port, directory."""

    console: io.FileIO
    agent: socket.socket
    renewal: socket.socket
    messages: socket.socket
    listener: socket.socket
    directory: int

    @property
    def path(self) -> Path:
        """The directory's current path: it or a parent may have been renamed."""
        return Path(f"/proc/self/fd/{self.directory}").readlink()

    def close(self) -> None:
        """Close everything and remove the directory. Call once only: descriptors may be reused."""
        for end in (self.console, self.agent, self.renewal, self.messages, self.listener):
            end.close()
        path = self.path
        os.close(self.directory)
        remove_directory(path)


class Inherited(NamedTuple):
    """The runner's ends; the server does not need them once the runner runs.

    All but the last are fields of `Configuration`.
    """

    kernel: int
    kit: int
    image: int
    scratch: int
    identity: int
    console: int
    agent: int
    renewal: int
    messages: int


def open_wires(
    spec: MachineSpec, ours: contextlib.ExitStack, theirs: contextlib.ExitStack
) -> tuple[Wires, Inherited]:
    """Open everything one runner needs; the two stacks close the two sides' ends.

    libkrun reopens its files as the runner's user, so that user is given access. Raises BootFailed
    when a file cannot be opened, PortTaken, OSError when descriptors run out.
    """
    disks = spec.disks
    kernel, kit, image = (open_file(path, theirs) for path in (spec.kernel, disks.kit, disks.image))
    scratch = open_file(disks.scratch, theirs, os.O_RDWR)
    identity = open_file(disks.identity, theirs)
    listener = claim(spec.ssh_port)
    ours.callback(listener.close)
    path = spec.console_log.with_suffix(".run")
    path.mkdir(mode=0o700)
    ours.callback(remove_directory, path)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    ours.callback(os.close, directory)
    agent, theirs_agent = socket_pair(ours, theirs)
    renewal, theirs_renewal = socket_pair(ours, theirs)
    messages, theirs_messages = socket_pair(ours, theirs)
    read, console = os.pipe()
    pipe = io.FileIO(read, "r")
    ours.callback(pipe.close)
    theirs.callback(os.close, console)
    if spec.uid is not None:
        os.fchown(console, spec.uid, spec.uid)
        os.fchown(directory, spec.uid, spec.uid)
        _share(scratch, spec.uid, 0o660)
        _share(identity, spec.uid, 0o640)
    return (
        Wires(pipe, agent, renewal, messages, listener, directory),
        Inherited(
            *(kernel, kit, image, scratch, identity, console),
            *(theirs_agent, theirs_renewal, theirs_messages),
        ),
    )


def _share(descriptor: int, gid: int, mode: int) -> None:
    """Give the group access; the server keeps the file."""
    os.fchown(descriptor, -1, gid)
    os.fchmod(descriptor, mode)
