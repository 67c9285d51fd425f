# SPDX-License-Identifier: Apache-2.0
"""What the headers of an ELF program say: its architecture, and whether it needs libraries.

`offered` asks before a program runs for the first time. Reads one descriptor, bounded; runs
nothing.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"\x7fELF"
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_64_BIT, _LITTLE = 2, 1
_EXECUTABLE, _SHARED = 2, 3
_LOADED, _INTERPRETER, _DYNAMIC = 1, 3, 2
_MOST_SEGMENTS: Final = 128
_MOST_NAME: Final = 4096
_MACHINES: Final = {62: "x86_64", 183: "aarch64", 243: "riscv64", 22: "s390x", 21: "ppc64le"}


class NotElf(ValueError):
    """It is no 64-bit ELF program; the text says what it is instead."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program. `arch` is as `uname -m` prints it; `interpreter` is empty for a static one."""

    arch: str
    interpreter: str

    @property
    def is_static(self) -> bool:
        """Whether it runs without any other file."""
        return not self.interpreter


def read(descriptor: int) -> Program:
    """Read the headers of an open file. Raises NotElf, OSError."""
    head = os.pread(descriptor, _HEADER.size, 0)
    if not head.startswith(_MAGIC):
        raise NotElf("it is a script" if head.startswith(b"#!") else "it is no ELF program")
    if len(head) < _HEADER.size:
        raise NotElf("it is cut off")
    ident, kind, machine, _, _, table, _, _, _, size, count, *_ = _HEADER.unpack(head)
    if ident[4] != _64_BIT or ident[5] != _LITTLE:
        raise NotElf("it is for 32-bit or big-endian processors")
    if kind not in (_EXECUTABLE, _SHARED):
        raise NotElf("it is an object file or a core dump")
    if size != _SEGMENT.size or not 0 < count <= _MOST_SEGMENTS or table >= 1 << 62:
        raise NotElf("its headers are damaged")
    interpreter, is_dynamic = "", False
    for segment, offset, length in _segments(descriptor, table, count):
        is_dynamic |= segment == _DYNAMIC
        if segment == _INTERPRETER:
            interpreter = _text(descriptor, offset, length)
    if kind == _SHARED and not is_dynamic:
        raise NotElf("its headers are damaged")
    return Program(_MACHINES.get(machine, f"machine {machine}"), interpreter)


def _segments(descriptor: int, table: int, count: int) -> list[tuple[int, int, int]]:
    """Return the kind, offset and length in the file of every segment."""
    rows = os.pread(descriptor, _SEGMENT.size * count, table)
    end = os.fstat(descriptor).st_size
    if len(rows) != _SEGMENT.size * count:
        raise NotElf("it is cut off")
    found = [(row[0], row[2], row[5]) for row in _SEGMENT.iter_unpack(rows)]
    if any(kind == _LOADED and offset + length > end for kind, offset, length in found):
        raise NotElf("it is cut off")
    return found


def _text(descriptor: int, offset: int, length: int) -> str:
    """Return the name of the program's loader."""
    if not 1 < length <= _MOST_NAME or offset >= 1 << 62:
        raise NotElf("its headers are damaged")
    raw = os.pread(descriptor, length, offset)
    name = raw.removesuffix(b"\0").decode("utf-8", "replace")
    if len(raw) != length or not name.startswith("/") or not name.isprintable():
        raise NotElf("its headers are damaged")
    return name
