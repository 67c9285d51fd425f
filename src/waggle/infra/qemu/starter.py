# SPDX-License-Identifier: Apache-2.0
"""The process that becomes QEMU: it confines itself first, so QEMU never has the host's view.

`hypervisor` starts it, and it calls `main`. QEMU gets an empty network, a small read-only root with
its program, libraries and firmware, the machine's user, no capabilities and fewer system calls, to
which it adds its own filter (`-sandbox`). It listens in that network for connections to the guest's
SSH port; the starter makes sockets of the same network and hands them to the server, which connects
them later. Where the kernel does not allow namespaces, the rest still holds.
"""

from __future__ import annotations

import _socket
import fcntl
import marshal
import os
import sys

from waggle.infra.shared import namespaces, seccomp
from waggle.infra.shared._abi import ffi
from waggle.infra.shared.namespaces import SmallRoot

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from typing import TypedDict

    from waggle.infra.shared.seccomp import Instruction

    class Plan(TypedDict):
        """The server's decisions, read from standard input."""

        argv: list[str]
        """QEMU's; the program is an absolute path without links."""
        directory: str
        """Any existing directory: the small root is mounted over it, for this process only."""
        door: int
        """The socket that hands sockets over; -1 for a machine without connections."""
        uid: int
        """Also the group; -1 to keep the server's user."""
        groups: list[int]
        parent: int
        """The server's process."""
        kvm: bool


FAILED = 3
SOCKETS = 4
"""Simultaneous connections to one machine; sockets are reused."""
VIEW = "waggle: QEMU keeps the host's view: "
_LIBRARIES = (
    *("/lib", "/lib32", "/lib64", "/libx32", "/usr/lib", "/usr/lib32", "/usr/lib64"),
    *("/usr/libx32", "/usr/local/lib", "/usr/local/lib64", "/etc/ld.so.cache"),
    *("/usr/share/qemu", "/usr/share/seabios", "/nix/store", "/gnu/store"),
)
_SET_FLAGS, _UP = 0x8914, 1


def shown(program: str) -> list[str]:
    """Return the host paths that QEMU sees: itself, libraries, firmware; not all exist. Pure."""
    prefix = os.path.dirname(os.path.dirname(program))  # noqa: PTH120  (pathlib is slow to import)
    own = () if prefix in ("", "/", "/usr") else ("lib", "lib64", "share/qemu", "share/seabios")
    return [*_LIBRARIES, *(f"{prefix}/{name}" for name in own), program]


def main() -> int:
    """Become one QEMU; return only when that failed."""
    try:
        _become_qemu(marshal.loads(sys.stdin.buffer.read()))  # noqa: S302  (the server wrote it)
    except (OSError, ValueError, KeyError, EOFError) as error:
        os.write(2, f"waggle: QEMU cannot start: {error}\n".encode("utf-8", "backslashreplace"))
    return FAILED


def _become_qemu(plan: Plan) -> None:
    argv = plan["argv"]
    door = plan["door"]
    libc = ffi.dlopen(None)
    os.umask(0o022)  # QEMU's user must be able to enter the directories made here
    namespaces.die_first()
    apart = False
    try:
        namespaces.enter(libc, user=plan["uid"] < 0)
        apart = True
        _narrow_view(SmallRoot(libc, plan["directory"]), argv[0], kvm=plan["kvm"])
    except OSError as error:
        os.write(2, f"{VIEW}{error}\n".encode("utf-8", "backslashreplace"))
        os.chdir("/")
    if door >= 0:
        _hand_over_sockets(door, apart=apart)
    namespaces.become(libc, plan["uid"], plan["groups"])
    namespaces.die_with(libc, plan["parent"])
    os.umask(0o077)
    seccomp.install(libc, qemu_filter(os.getpid()))
    os.execv(argv[0], argv)  # noqa: S606  (no shell, and a program of the operator's)


def _narrow_view(root: SmallRoot, program: str, *, kvm: bool) -> None:
    """Enter the small root. Opens everything first, because the root may be mounted over it."""
    links = {path: os.readlink(path) for path in shown(program) if os.path.islink(path)}  # noqa: PTH114, PTH115
    held = {
        path: os.open(path, os.O_PATH)
        for path in shown(program)
        if path not in links and os.access(path, os.F_OK)
    }
    root.begin()
    for path, target in links.items():
        root.directory(os.path.dirname(path)[1:])  # noqa: PTH120
        os.symlink(target, path[1:])  # noqa: PTH211
    for path, descriptor in held.items():
        if not os.access(path[1:], os.F_OK):  # not inside a directory that is already bound
            is_file = not os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112
            root.bind(descriptor, path[1:], file=is_file, read_only=True)
        os.close(descriptor)
    root.directory("dev")
    if kvm:
        root.device("/dev/kvm")
    root.processes()
    root.pivot()


def _hand_over_sockets(door: int, *, apart: bool) -> None:
    """Pass sockets of this network to the server; bring up the loopback of a separate one."""
    made = [_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM) for _ in range(SOCKETS)]
    if apart:
        request = b"lo".ljust(16, b"\0") + _UP.to_bytes(2, "little") + bytes(22)
        fcntl.ioctl(made[0].fileno(), _SET_FLAGS, request)
    numbers = b"".join(end.fileno().to_bytes(4, "little") for end in made)
    server = _socket.socket(fileno=door)
    server.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
    for end in (server, *made):
        end.close()


def qemu_filter(pid: int) -> list[Instruction]:
    """Return the filter of process `pid`: AF_UNIX and AF_INET, threads, signals to itself.

    AF_INET is for the one forward to the guest, in QEMU's separate network.
    """
    numbers = (number for group in seccomp.DENIED.values() for number in group)
    return [
        *seccomp.beginning(),
        *seccomp.every(numbers, seccomp.EPERM),
        *seccomp.only_with(seccomp.SOCKET, 0, [seccomp.UNIX, seccomp.INTERNET]),
        *seccomp.only_with(seccomp.SOCKETPAIR, 0, [seccomp.UNIX]),
        *seccomp.only_threads(),
        *seccomp.only_itself(pid),
        *seccomp.ending(seccomp.ALLOW),
    ]
