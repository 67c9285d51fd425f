# SPDX-License-Identifier: Apache-2.0
"""Filters of system calls: rules become a program for the kernel, see seccomp(2).

Used by `krun.runner`, `qemu.starter` and `vmm.starter`, which have the rules. A rule checks the
number and optionally the lower half of one argument: enough for families, flags and process ids, of
which the kernel uses no more. Refused calls fail with EPERM. Pure but for `install`. x86-64 only.
"""

from __future__ import annotations

import os

from waggle.infra.shared._abi import ffi

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from collections.abc import Iterable

    from waggle.infra.shared._abi import LibC

    Instruction = tuple[int, int, int, int]
    """Code, jump if true, jump if false, operand."""

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_X86_64, _X32 = 0xC000003E, 0x40000000
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026

CLONE, CLONE3, CLONE_THREAD = 56, 435, 0x10000
SOCKET, SOCKETPAIR, KILL_PROCESS, KILL_THREAD = 41, 53, 62, 234
UNIX, INTERNET = 1, 2
"""Socket families."""
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
"""Calls that are denied in case a guest takes its VMM over, by purpose; see syscall_64.tbl.

Denied ones, not allowed ones, because the needs of VMMs differ between versions."""


def beginning() -> list[Instruction]:
    """Start a filter: end the process at calls of another architecture, refuse the x32 ABI."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, EPERM),
    ]


def every(numbers: Iterable[int], verdict: int) -> list[Instruction]:
    """Give these calls a verdict, whatever their arguments."""
    found: list[Instruction] = []
    for number in numbers:
        found += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]
    return found


def only_with(number: int, argument: int, values: Iterable[int]) -> list[Instruction]:
    """Allow a call if its argument (counted from 0) is one of `values`, refuse it otherwise."""
    return _for(number, argument, [*every(values, ALLOW), (_RETURN, 0, 0, EPERM)])


def only_threads() -> list[Instruction]:
    """Allow new threads, no new processes.

    clone3, whose flags a filter cannot see, fails with ENOSYS, so the C library uses clone.
    """
    thread = [(_JUMP_IF_SET, 0, 1, CLONE_THREAD), (_RETURN, 0, 0, ALLOW), (_RETURN, 0, 0, EPERM)]
    return [*every([CLONE3], ENOSYS), *_for(CLONE, 0, thread)]


def only_itself(pid: int) -> list[Instruction]:
    """Allow signals to the process itself only."""
    return [*only_with(KILL_PROCESS, 0, [pid]), *only_with(KILL_THREAD, 0, [pid])]


def ending(verdict: int) -> list[Instruction]:
    """Give all other calls a verdict."""
    return [(_RETURN, 0, 0, verdict)]


def _for(number: int, argument: int, rules: list[Instruction]) -> list[Instruction]:
    """Apply rules for an argument to one call; the rules end the program."""
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [(_JUMP_IF_EQUAL, 0, 1 + len(rules), number), load, *rules]


def install(libc: LibC, program: list[Instruction]) -> bool:
    """Filter this process permanently, with later threads; False where call numbers differ.

    Raises OSError when the kernel has no filters.
    """
    if os.uname().machine != "x86_64":
        return False
    packed = b"".join(
        code.to_bytes(2, "little") + bytes((yes, no)) + operand.to_bytes(4, "little")
        for code, yes, no, operand in program
    )
    filters = ffi.new("char[]", packed)
    address = int(ffi.cast("uintptr_t", filters))
    length = len(packed) // 8
    fprog = ffi.new("char[]", length.to_bytes(8, "little") + address.to_bytes(8, "little"))
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_SET_SECCOMP, _FILTER, int(ffi.cast("uintptr_t", fprog)), 0, 0) != 0:
        raise OSError(ffi.errno, f"seccomp: {os.strerror(ffi.errno)}")
    return True
