# SPDX-License-Identifier: Apache-2.0
"""The system calls that are denied to QEMU, in case its guest takes it over. Pure.

Used by `starter` before QEMU begins; QEMU then adds its own filter (`-sandbox`), which also denies
it new programs. Lists denied calls, not allowed ones, because QEMU's needs differ between versions.
Numbers are x86-64's, from the kernel's syscall_64.tbl.
"""

from __future__ import annotations

from waggle.infra.shared import seccomp

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from waggle.infra.shared.seccomp import Instruction

DENIED = {
    "processes": (57, 58),  # fork, vfork; clone has its own rule
    "other processes": (101, 129, 200, 297, 310, 311, 312, 424, 434, 438, 440),
    "namespaces and mounts": (155, 161, 165, 166, 272, 303, 304, 308, *range(428, 434), 442),
    "the kernel": (
        *(103, 134, 135, 153, 163, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 246),
        *(298, 300, 301, 313, 320, 321, 323, *range(425, 428), 443),
    ),
    "clocks": (159, 164, 227, 305),
    "keys": (248, 249, 250),
}
"""System call numbers by purpose."""


def qemu_filter(pid: int) -> list[Instruction]:
    """Return the filter of process `pid`: AF_UNIX and AF_INET, threads, signals to itself.

    AF_INET is for the one forward to the guest, in QEMU's separate network.
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
