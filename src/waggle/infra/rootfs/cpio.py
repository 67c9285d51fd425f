# SPDX-License-Identifier: Apache-2.0
"""Packs cpio archives in the format that a kernel unpacks as its first root. Pure.

Called by `full_kernel`. See buffer-format.rst in the kernel's Documentation, early-userspace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = "070701"
_END = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or directory, of root's. A directory comes before what is in it."""

    name: str
    mode: int
    """Type and permissions, as in `stat`."""
    data: bytes = b""


def newc(entries: Iterable[Entry]) -> bytes:
    """Pack an archive, which depends on the entries alone."""
    out = bytearray()
    for number, entry in enumerate([*entries, Entry(_END, 0)], 1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
        out += (_MAGIC + "".join(f"{field:08X}" for field in fields)).encode() + name
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)
