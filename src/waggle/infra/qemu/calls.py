# SPDX-License-Identifier: Apache-2.0
"""The system calls that QEMU, once its guest has taken it over, must not have.

Used by `starter`, before QEMU begins; QEMU then adds a filter of its own (`-sandbox`), which also
denies it new programs. A list of what is denied, since QEMU's needs differ between versions. Pure.
Numbers are x86-64's, from the kernel's syscall_64.tbl.
"""

from __future__ import annotations

from waggle.infra.shared.confinement import seccomp

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from waggle.infra.shared.confinement.seccomp import Instruction

DENIED = {
    "processes": (57, 58),  # fork, vfork; clone has a rule of its own
    "other processes": (101, 129, 200, 297, 310, 311, 312, 424, 434, 438, 440),
    "namespaces and mounts": (155, 161, 165, 166, 272, 303, 304, 308, *range(428, 434), 442),
    "the kernel": (
        *(103, 134, 135, 153, 163, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 246),
        *(298, 300, 301, 313, 320, 321, 323, *range(425, 428), 443),
    ),
    "clocks": (159, 164, 227, 305),
    "keys": (248, 249, 250),
}
"""By what they are for."""


def qemu_filter(pid: int) -> list[Instruction]:
    """For the process `pid`: sockets of AF_UNIX and AF_INET, threads, signals to itself.

    AF_INET is for the one forward that leads to the guest, in a network of its own.
    """
    numbers = (number for group in DENIED.values() for number in group)
    return [
        *seccomp.beginning(),
        *seccomp.each(numbers, seccomp.EPERM),
        *seccomp.only_with(seccomp.SOCKET, 0, [seccomp.UNIX, seccomp.INTERNET]),
        *seccomp.only_with(seccomp.SOCKETPAIR, 0, [seccomp.UNIX]),
        *seccomp.only_threads(),
        *seccomp.only_itself(pid),
        *seccomp.ending(seccomp.ALLOW),
    ]
