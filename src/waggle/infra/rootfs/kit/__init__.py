# SPDX-License-Identifier: Apache-2.0
"""The guest kernel: the one inside libkrunfw, wrapped as an ELF that both hypervisors boot.

`krunfw_get_kernel` returns the raw image with its load address and its 64-bit entry. The ELF has
one PT_LOAD of that image, the 64-bit entry as `e_entry` (libkrun jumps there), and one PT_NOTE
that repeats the kernel's Xen PVH note (QEMU enters there; type 18 of `Xen`, see the kernel's
include/xen/interface/elfnote.h). Called by `waggle setup`; runs only the library's two functions
for its version and its kernel.
"""

from __future__ import annotations

import asyncio
import shlex
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from cffi import FFI

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian
from waggle.infra.shared.files import FileLock, atomic_write
from waggle.infra.shared.work import workspace

LIBRARY = "libkrunfw.so.5"
PACKAGE = "libkrunfw5"
PACKAGE_SUITE = "sid"
MAJOR = 5
_NOTE = b"\x12\0\0\0Xen\0"
_BUILD_SECONDS = 900
_PAGE = 0x1000
_EM_X86_64 = 62


@dataclass(frozen=True, slots=True)
class RawKernel:
    """A kernel as libkrunfw returns it: bytes, load address, 64-bit entry point."""

    image: bytes
    load_address: int
    entry: int


class _Library(Protocol):
    """The used part of libkrunfw: its major version, and a function that returns the kernel."""

    def krunfw_get_version(self) -> int: ...

    def krunfw_get_kernel(
        self, load_address: FFI.CData, entry: FFI.CData, size: FFI.CData
    ) -> FFI.CData: ...


def pvh_note(image: bytes) -> bytes:
    """Find the PVH note in the kernel's bytes. Raises SetupIncomplete when there is none."""
    at = image.find(_NOTE, 8)
    while at >= 0:
        name_size, size = struct.unpack_from("<II", image, at - 8)
        if name_size == 4 and size in (4, 8):
            return image[at - 8 : at + len(_NOTE) + size]
        at = image.find(_NOTE, at + 1)
    raise SetupIncomplete("The libkrunfw kernel has no PVH entry point.", hint="Use libkrunfw 5.x.")


def elf(kernel: RawKernel) -> bytes:
    """Return the kernel as an ELF64 executable. Pure."""
    note = pvh_note(kernel.image)
    note_offset = 64 + 2 * 56
    size = len(kernel.image)
    ident = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)
    fields = (2, _EM_X86_64, 1, kernel.entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    header = ident + struct.pack("<HHIQQQIHHHHHH", *fields)
    address = kernel.load_address
    load = struct.pack("<IIQQQQQQ", 1, 7, _PAGE, address, address, size, size, _PAGE)
    noted = struct.pack("<IIQQQQQQ", 4, 4, note_offset, 0, 0, len(note), len(note), 4)
    return (header + load + noted + note).ljust(_PAGE, b"\0") + kernel.image


def extract(library: Path) -> RawKernel:
    """Get the kernel from libkrunfw. Raises SetupIncomplete when that cannot be loaded or used."""
    ffi = FFI()
    ffi.cdef(
        "int krunfw_get_version(void);"
        "char *krunfw_get_kernel(size_t *load_address, size_t *entry, size_t *size);"
    )
    load, entry, size = (ffi.new("size_t *") for _ in range(3))
    try:
        lib = cast("_Library", ffi.dlopen(str(library)))
        version = lib.krunfw_get_version()
        image = lib.krunfw_get_kernel(load, entry, size)
    except (OSError, AttributeError) as error:
        raise SetupIncomplete(f"{library} cannot be used: {error}.") from error
    if version != MAJOR:
        raise SetupIncomplete(
            f"{library} is libkrunfw {version}; waggle needs {MAJOR}.x.",
            hint=f"Set WAGGLE_LIBKRUNFW_PATH to a {LIBRARY}, or unset it.",
        )
    address, start, length = (cast("Sequence[int]", number)[0] for number in (load, entry, size))
    if image == ffi.NULL or length == 0:
        raise SetupIncomplete(f"{library} holds no kernel.")
    return RawKernel(bytes(ffi.buffer(image, length)), address, start)


def _edition(library: Path | None) -> str:
    """Return a file name part that differs between versions of a configured library."""
    if library is None:
        return ""
    try:
        facts = library.stat()
    except OSError:
        return ".none"
    return f".{facts.st_size:x}-{facts.st_mtime_ns:x}"


class GuestKernel:
    """The kernel file in `directory`. Safe to use from several processes."""

    def __init__(self, directory: Path, library: Path | None = None) -> None:
        self.path = directory / f"kernel-{LIBRARY.removeprefix('lib')}{_edition(library)}.elf"
        self._library = library

    def require(self) -> Path:
        """Return the kernel's file. Raises SetupIncomplete when it does not exist yet."""
        if not self.path.exists():
            raise SetupIncomplete("The guest kernel is not there.")
        return self.path

    async def ensure(
        self, mirror: str | None, on_line: Callable[[str], None] = lambda _line: None
    ) -> Path:
        """Make the kernel file unless it exists, from the configured library or the package.

        Idempotent; leaves the system's packages untouched. Raises SetupIncomplete.
        """
        if self.path.exists():
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        async with FileLock(self.path.with_suffix(".lock"), timeout=_BUILD_SECONDS):
            if self._library is not None:
                atomic_write(self.path, elf(extract(self._library)), 0o444)
            elif not self.path.exists():
                await self._from_package(await asyncio.to_thread(debian.mirror, mirror), on_line)
        return self.path

    async def _from_package(self, mirror: str, on_line: Callable[[str], None]) -> None:
        with workspace(self.path.parent) as work:
            out = work / LIBRARY
            # Without root, only mmdebstrap itself can write into a directory of the server.
            find = f'find "$1/usr" -name "{LIBRARY}*" -type f'
            hooks = (
                f'--extract-hook={find} -exec cp {{}} "$1/kernel" ";"',
                f"--extract-hook=download /kernel {shlex.quote(str(out))}",
            )
            argv = debian.tree_argv(mirror, suite=PACKAGE_SUITE, packages=[PACKAGE], hooks=hooks)
            await debian.run(argv, on_line)
            atomic_write(self.path, elf(extract(out)), 0o444)
