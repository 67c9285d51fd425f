# SPDX-License-Identifier: Apache-2.0
"""Landlock: a process gives up every file but those that it names, see landlock(7).

Called by `vmm.starter`, which knows the files that its VMM needs; `waggle doctor` asks for the
version. It holds for all later threads, whatever is mounted where and whoever hands the
process a directory. What is open already stays usable, and so does memory without a name, such as
that of a frozen machine. Part of a boot: imports as in `namespaces`.
"""

from __future__ import annotations

import os

from waggle.infra.shared._abi import ffi

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from collections.abc import Mapping

    from waggle.infra.shared._abi import LibC

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""The same numbers on every architecture."""
_ASK_VERSION, _PATH_BENEATH, _SET_NO_NEW_PRIVS = 1, 1, 38
_RIGHTS = (0, 13, 14, 15, 15, 16)
"""How many of the kernel's rights each version has; later ones have more, which stay allowed."""
EXECUTE, WRITE, READ, LIST, TRUNCATE, DEVICE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
"""On files, but LIST; DEVICE are the calls of a device's own (ioctl)."""
FILL = WRITE | READ | LIST | TRUNCATE | 0x17B0
"""To make, use and remove all but devices in a directory, and to run nothing there."""


def version() -> int:
    """Return the kernel's version of Landlock; 0 where it has none or that is turned off."""
    return available(ffi.dlopen(None))


def available(libc: LibC) -> int:
    """Return the same, by this library."""
    asked = libc.syscall(_CREATE, ffi.NULL, _number(0), _number(_ASK_VERSION))
    return max(0, asked)


def confine(libc: LibC, rights: Mapping[str, int]) -> bool:
    """Leave this process these `rights` on files, by path, for good; False without Landlock.

    Those on a directory are also for what is in it. Raises OSError.
    """
    found = available(libc)
    if not found:
        return False
    handled = (1 << _RIGHTS[min(found, len(_RIGHTS) - 1)]) - 1
    attributes = ffi.new("char[]", handled.to_bytes(8, "little"))
    rules = libc.syscall(_CREATE, attributes, _number(8), _number(0))
    _check(rules, "landlock_create_ruleset")
    try:
        for path, allowed in rights.items():
            _allow(libc, rules, path, allowed & handled)
        libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _check(libc.syscall(_RESTRICT, _number(rules), _number(0)), "landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def _allow(libc: LibC, rules: int, path: str, allowed: int) -> None:
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = allowed.to_bytes(8, "little") + held.to_bytes(4, "little")
        added = libc.syscall(
            _ADD, _number(rules), _number(_PATH_BENEATH), ffi.new("char[]", rule), _number(0)
        )
        _check(added, f"landlock_add_rule for {path}")
    finally:
        os.close(held)


def _number(value: int) -> object:
    return ffi.cast("long", value)


def _check(result: int, name: str) -> None:
    if result < 0:
        raise OSError(ffi.errno, f"{name}: {os.strerror(ffi.errno)}")
