# SPDX-License-Identifier: Apache-2.0
"""Makes the guest kit and the guest kernel, which every machine has besides its image.

`waggle setup` calls it; the composition root finds the files. The kit is a small read-only EROFS
with init, SSH, SFTP and the guest agent, named by a digest of its sources and package list. The
kernel is the one inside libkrunfw, wrapped as an ELF that both hypervisors boot: one PT_LOAD of the
raw image, the 64-bit entry as `e_entry` (libkrun jumps there), and one PT_NOTE that repeats its Xen
PVH note (QEMU enters there; type 18 of `Xen`, see the kernel's include/xen/interface/elfnote.h).
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from cffi import FFI

from waggle.domain.errors import SetupIncomplete
from waggle.domain.programs import notebook
from waggle.infra.shared import debian
from waggle.infra.shared.debian import OnLine
from waggle.infra.shared.files import FileLock, atomic_write
from waggle.infra.shared.work import place, workspace

_BUILD_SECONDS = 900


class Part(ABC):
    """A file that is made once. Safe to use from several processes."""

    path: Path
    _absent: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and all that belongs to it."""
        return (self.path,)

    @property
    def is_there(self) -> bool:
        """Whether it was made, with all that belongs to it."""
        return all(path.exists() for path in self.files)

    def require(self) -> Path:
        """Return the file. Raises SetupIncomplete when it was not made yet."""
        if not self.is_there:
            raise SetupIncomplete(self._absent)
        return self.path

    async def ensure(self, mirror: str | None, on_line: OnLine = lambda _line: None) -> Path:
        """Make the file unless it exists; leave the system's packages untouched. Idempotent.

        A cancelled build leaves nothing. Raises SetupIncomplete when a tool is missing or fails.
        """
        if self.is_there:
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        async with FileLock(self.path.with_suffix(".lock"), timeout=_BUILD_SECONDS):
            if not self.is_there:
                await self._make(mirror, on_line)
        return self.path

    @abstractmethod
    async def _make(self, mirror: str | None, on_line: OnLine) -> None: ...


GUEST_SOURCES = Path(__file__).parent / "guest"
AGENT_SOURCES = Path(__file__).parent / "agent"
KIT_PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "libjansson-dev",
    "linux-libc-dev",
    "musl-tools",
    "openssh-sftp-server",
)


NOTEBOOK = Path(notebook.__file__)
"""The one source that server and guest share."""


def kit_key(sources: Path = GUEST_SOURCES, agent: Path = AGENT_SOURCES) -> str:
    """Return a short digest of the kit's sources and packages. Pure except for reading them."""
    digest = hashlib.sha256(" ".join((debian.SUITE, *KIT_PACKAGES)).encode())
    for file in (*sorted(sources.iterdir()), *sorted(agent.iterdir()), NOTEBOOK):
        if file.is_file():
            digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class GuestKit(Part):
    """The kit of this version of waggle, in `directory`."""

    _absent = "The guest kit is not built."

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"kit-{kit_key()}.erofs"

    async def _make(self, mirror: str | None, on_line: OnLine) -> None:
        uri = await asyncio.to_thread(debian.mirror, mirror)
        with workspace(self.path.parent) as work:
            tree, image = work / "tree", work / "kit.erofs"
            tree.mkdir()
            hooks = [f"--extract-hook={hook}" for hook in _hooks(GUEST_SOURCES, tree)]
            argv = debian.tree_argv(uri, packages=KIT_PACKAGES, hooks=hooks)
            await debian.run(argv, on_line)
            await debian.run(["mkfs.erofs", "--quiet", "-T0", "--all-root", str(image), str(tree)])
            image.chmod(0o444)
            await asyncio.to_thread(place, image, self.path)


def _hooks(sources: Path, output: Path) -> list[str]:
    """Return shell lines for mmdebstrap; `$1` is the tree. Only waggle's paths are inserted."""
    links = 'for d in bin sbin lib lib64; do [ -e "$1/$d" ] || ln -s usr/$d "$1/$d"; done'
    return [
        f'{links}; mkdir -p "$1/waggle-guest" "$1/waggle-agent"',
        f"sync-in {shlex.quote(str(sources))} /waggle-guest",
        f"sync-in {shlex.quote(str(AGENT_SOURCES))} /waggle-agent",
        f"copy-in {shlex.quote(str(NOTEBOOK))} /waggle-guest",
        'chroot "$1" /usr/bin/busybox sh /waggle-guest/assemble.sh',
        f"sync-out /kit {shlex.quote(str(output))}",
    ]


LIBRARY = "libkrunfw.so.5"
PACKAGE = "libkrunfw5"
PACKAGE_SUITE = "sid"
MAJOR = 5
_NOTE = b"\x12\0\0\0Xen\0"
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
    raise SetupIncomplete("The kernel has no PVH entry point.", hint="Use libkrunfw 5.x.")


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


class GuestKernel(Part):
    """The kernel file in `directory`, from the configured library or its package."""

    _absent = "The guest kernel is not built."

    def __init__(self, directory: Path, library: Path | None = None) -> None:
        self.path = directory / f"kernel-{LIBRARY.removeprefix('lib')}{_edition(library)}.elf"
        self._library = library

    async def _make(self, mirror: str | None, on_line: OnLine) -> None:
        if self._library is not None:
            atomic_write(self.path, elf(extract(self._library)), 0o444)
            return
        uri = await asyncio.to_thread(debian.mirror, mirror)
        with workspace(self.path.parent) as work:
            out = work / LIBRARY
            # Without root, only mmdebstrap itself can write into a directory of the server.
            find = f'find "$1/usr" -name "{LIBRARY}*" -type f'
            hooks = (
                f'--extract-hook={find} -exec cp {{}} "$1/kernel" ";"',
                f"--extract-hook=download /kernel {shlex.quote(str(out))}",
            )
            argv = debian.tree_argv(uri, suite=PACKAGE_SUITE, packages=[PACKAGE], hooks=hooks)
            await debian.run(argv, on_line)
            atomic_write(self.path, elf(extract(out)), 0o444)
