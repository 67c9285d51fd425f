# SPDX-License-Identifier: Apache-2.0
"""The connections between a runner and the server: files, channels and the way to the guest.

`machine` uses them. `open_wires` gives the runner's user access to them. Knows nothing of the data
that is sent. `Door` connects to the Unix socket that libkrun made in the runner's
directory. The runner is not trusted, so the kernel confirms that the answering process is the
runner before anything is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import socket
import struct
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from waggle.domain.machine import MachineSpec
from waggle.infra.guest.forwarder import claim
from waggle.infra.guest.link import open_file, socket_pair

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


def remove_directory(path: Path) -> None:
    """Remove the socket's directory, in which the runner may have created anything.

    Follows no link. Moves an inner directory up before it empties it, so depth costs no
    descriptors or stack frames. Idempotent; raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        _empty(path)
        path.rmdir()


def _empty(path: Path) -> None:
    moved = secrets.token_hex(8)  # a name that no entry has
    with _opened(path) as top:
        waiting = _remove_files(top)
        count = 0
        while waiting:
            name = waiting.pop()
            with _opened(name, top) as inner:
                for child in _remove_files(inner):
                    count += 1
                    waiting.append(f"{moved}-{count}")
                    with _opened(child, inner):  # moving a directory needs write access to it
                        os.rename(child, waiting[-1], src_dir_fd=inner, dst_dir_fd=top)
            os.rmdir(name, dir_fd=top)


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Generator[int]:
    """Open a directory, even one whose mode forbids that to its owner."""
    with contextlib.ExitStack() as stack:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        found = os.open(path, flags, dir_fd=parent)
        stack.callback(os.close, found)
        itself = Path(f"/proc/self/fd/{found}")
        itself.chmod(0o700)
        directory = os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        yield directory


def _remove_files(directory: int) -> list[str]:
    """Remove everything except directories and return the names of those."""
    directories: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories


_CREDENTIALS: Final = struct.Struct("iII")


class Door:
    """The way to a runner's guest. The caller keeps and closes `directory`."""

    def __init__(self, directory: int, name: str, pid: int) -> None:
        """Connect to the socket `name` in the open `directory`; process `pid` must answer."""
        self._path = f"/proc/self/fd/{directory}/{name}"
        self._pid = pid

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """Open one connection. Raises OSError, also when another process answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest:
            guest.setblocking(False)
            await asyncio.get_running_loop().sock_connect(guest, self._path)
            if peer_pid(guest) != self._pid:
                raise ConnectionRefusedError("Another process answers.")
            yield guest


def peer_pid(connection: socket.socket) -> int:
    """Return the process that listens on the other end of a Unix socket; see unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)
