# SPDX-License-Identifier: Apache-2.0
"""System calls that no runner needs once it is confined, and that a hostile guest would want.

Used by `confine`, last. A list of what is denied, since libkrun's own needs differ between
versions. Denied calls fail with EPERM; see seccomp(2). Pure but for `install`.
"""

from __future__ import annotations

import os

from waggle.infra.krun._abi import ffi

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from waggle.infra.krun._abi import LibC

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_X86_64, _X32 = 0xC000003E, 0x40000000
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050001, 0x00050026
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_CLONE, _CLONE3, _CLONE_THREAD = 56, 435, 0x10000

DENIED = {
    "programs": (57, 58, 59, 322),  # fork, vfork, execve, execveat; clone has a rule of its own
    "other processes": (101, 310, 311, 312, 434, 438, 440),
    "namespaces and mounts": (155, 161, 165, 166, 272, 304, 308, *range(428, 434), 442),
    "the kernel": (103, 167, 169, 175, 176, 246, 298, 313, 320, 321, 323, *range(425, 428)),
    "keys": (248, 249, 250),
}
"""x86-64 numbers, by what they are for; from the kernel's syscall_64.tbl."""


def program() -> list[tuple[int, int, int, int]]:
    """The filter: code, jump if true, jump if false, operand, for each instruction.

    New processes are denied, new threads are not; clone3, whose flags a filter cannot see, is said
    not to exist, upon which the C library uses clone.
    """
    body = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _EPERM),
    ]
    for number in sorted(number for group in DENIED.values() for number in group):
        body += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    return [
        *body,
        (_JUMP_IF_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ENOSYS),
        (_JUMP_IF_EQUAL, 0, 3, _CLONE),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_SET, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def install(libc: LibC) -> bool:
    """Deny them to this process and all its threads, for good; False where there is no list.

    Raises OSError when the kernel has no filters.
    """
    if os.uname().machine != "x86_64":
        return False
    packed = b"".join(
        code.to_bytes(2, "little") + bytes((yes, no)) + operand.to_bytes(4, "little")
        for code, yes, no, operand in program()
    )
    filters = ffi.new("char[]", packed)
    address = int(ffi.cast("uintptr_t", filters))
    length = len(packed) // 8
    fprog = ffi.new("char[]", length.to_bytes(8, "little") + address.to_bytes(8, "little"))
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_SET_SECCOMP, _FILTER, int(ffi.cast("uintptr_t", fprog)), 0, 0) != 0:
        raise OSError(ffi.errno, f"seccomp: {os.strerror(ffi.errno)}")
    return True
