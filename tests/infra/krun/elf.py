# SPDX-License-Identifier: Apache-2.0
"""Shared libraries made of bytes: stand-ins for libkrun that need neither compiler nor libkrun.

`shared_object({"krun_create_ctx": returns(0)})` is a library with that one function, as the loader
of an x86-64 Linux accepts it. See elf(5) and the System V ABI, "Dynamic Linking".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from waggle.infra.krun.probe import SINCE

X86_64, AARCH64 = 62, 183
_PAGE = 0x1000
_CODE, _DYNAMIC = 0x4000, 0x8000
_HANG = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"  # again: mov eax, 34 (pause); syscall; jmp again


def returns(value: int) -> bytes:
    """Return the code of a function that returns a number: mov eax, value; ret."""
    return b"\xb8" + struct.pack("<i", value) + b"\xc3"


def refuses(index: int) -> bytes:
    """Return the code of a function that fails with an argument as the errno, or succeeds at 0.

    `index` selects the first, second or third argument: mov eax, REGISTER; neg eax; ret.
    """
    return (b"\x89\xf8", b"\x89\xf0", b"\x89\xd0")[index] + b"\xf7\xd8\xc3"


def hangs() -> bytes:
    """Return the code of a function that waits for signals forever."""
    return _HANG


def exits(status: int) -> bytes:
    """Return the code of a function that ends the process.

    mov edi, status; mov eax, 231 (exit_group); syscall.
    """
    return b"\xbf" + struct.pack("<i", status) + b"\xb8\xe7\x00\x00\x00\x0f\x05"


def krun_functions(**others: bytes) -> dict[str, bytes]:
    """Return all functions that waggle uses of libkrun: they succeed, except for `others`."""
    functions = dict.fromkeys(SINCE, returns(0)) | {"krun_get_max_vcpus": returns(4)}
    return functions | others


def krun_library(path: Path, *lacks: str, **others: bytes) -> Path:
    """Write a libkrun to `path` without the functions in `lacks` and with `others` as given."""
    functions = krun_functions(**others)
    for name in lacks:
        del functions[name]
    path.write_bytes(shared_object(functions))
    path.chmod(0o755)
    return path


def shared_object(functions: Mapping[str, bytes], machine: int = X86_64) -> bytes:
    """Return the library file: headers and symbols, code at _CODE, writable data at _DYNAMIC."""
    names, code = b"\0", b""
    symbols = [bytes(24)]
    for name, body in functions.items():
        place = struct.pack("<IBBHQQ", len(names), 0x12, 0, 1, _CODE + len(code), len(body))
        symbols.append(place)
        names += name.encode() + b"\0"
        code += body
    chain = [*range(2, len(symbols)), 0] if functions else []
    table = struct.pack(f"<{4 + len(chain)}I", 1, len(symbols), min(1, len(functions)), 0, *chain)
    hash_at = 0x200
    symbols_at = hash_at + -(-len(table) // 8) * 8
    names_at = symbols_at + 24 * len(symbols)
    entries = ((4, hash_at), (5, names_at), (6, symbols_at), (10, len(names)), (11, 24), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    end = _DYNAMIC + len(dynamic)
    image = bytearray(end)
    for at, part in (
        (0, _header(machine, len(dynamic))),
        (hash_at, table),
        (symbols_at, b"".join(symbols)),
        (names_at, names),
        (_CODE, code),
        (_DYNAMIC, dynamic),
    ):
        assert not any(image[at : at + len(part)]), "the parts overlap"
        image[at : at + len(part)] = part
    return bytes(image)


def _header(machine: int, dynamic: int) -> bytes:
    def segment(kind: int, flags: int, at: int, size: int, alignment: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, alignment)

    segments = (
        segment(1, 5, 0, _DYNAMIC, _PAGE),  # PT_LOAD, read and execute
        segment(1, 6, _DYNAMIC, dynamic, _PAGE),  # PT_LOAD, read and write
        segment(2, 6, _DYNAMIC, dynamic, 8),  # PT_DYNAMIC
        segment(0x6474E551, 6, 0, 0, 16),  # PT_GNU_STACK, not executable
    )
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    sizes = (0, 64, 56, len(segments), 64, 0, 0)
    return (
        identity
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, *sizes)
        + b"".join(segments)
    )
