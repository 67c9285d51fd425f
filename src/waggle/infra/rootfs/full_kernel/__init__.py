# SPDX-License-Identifier: Apache-2.0
"""Makes the full guest kernel: Debian's cloud kernel, as an ELF file, and an initramfs for it.

`waggle setup` calls it where a setting or a hypervisor needs that kernel; the composition root
finds the files. Unlike the small kernel (`kit`), it has PCI, ACPI and modules: those that reach the
kit are inserted by the initramfs (`guest/init.c`), those that containers need lie in an EROFS
inside it, which the kit offers to the guest. The packages come from the same archive and suite as
the kit's, and none is installed. Both files have one stem, named by a digest of what they are made
of; the kernel is placed last, so where it is, both are complete.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import stat
import struct
from pathlib import Path

import zstandard

from waggle.domain.errors import SetupIncomplete
from waggle.infra.rootfs.cpio import Entry, newc
from waggle.infra.rootfs.kit import Part, pvh_note
from waggle.infra.shared import debian
from waggle.infra.shared.debian import OnLine
from waggle.infra.shared.files import atomic_write
from waggle.infra.shared.work import place, workspace

SOURCES = Path(__file__).parent / "guest"
PACKAGES = (
    *("busybox-static", "kmod", "liblzma5", "linux-image-cloud-amd64", "linux-libc-dev"),
    "musl-tools",
)
MODULES = (
    *("virtio_blk", "erofs", "overlay", "virtio_net", "virtio_rng", "virtio_balloon"),
    "vmw_vsock_virtio_transport",
)
"""What every machine needs; others are found by their names when something needs them."""
INITRD = ".initrd"
_NAME = "kernel-full-"
_MIB = 1 << 20
MAX_PACKED = 64 * _MIB
MAX_KERNEL = 256 * _MIB
MAX_INITRD = 64 * _MIB
_ZSTD = b"\x28\xb5\x2f\xfd"
_HINT = "The archive's kernel is not as expected: report it, or use WAGGLE_GUEST_KERNEL=small."


def full_key(sources: Path = SOURCES) -> str:
    """Return a short digest of sources, packages and modules. Pure except for reading them."""
    words = (debian.SUITE, *PACKAGES, *MODULES)
    digest = hashlib.sha256(" ".join(words).encode())
    for file in sorted(sources.iterdir()):
        if file.is_file():
            digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def unpacked(kernel: bytes) -> bytes:
    """Return the ELF file inside a bzImage. Pure.

    See the kernel's Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`. Raises
    SetupIncomplete if it is none, is not packed with zstd, is too large or has no PVH entry point.
    """
    if len(kernel) < 0x250 or kernel[0x202:0x206] != b"HdrS" or len(kernel) > MAX_PACKED:
        raise SetupIncomplete("The kernel of Debian's package is no bzImage.", hint=_HINT)
    (offset, length) = struct.unpack_from("<II", kernel, 0x248)
    start = (kernel[0x1F1] + 1) * 512 + offset
    payload = kernel[start : start + length]
    if len(payload) != length or not payload.startswith(_ZSTD):
        raise SetupIncomplete("The kernel of Debian's package is not packed by zstd.", hint=_HINT)
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=128 * _MIB).stream_reader(payload)
        elf = reader.read(MAX_KERNEL + 1)
    except zstandard.ZstdError as error:
        raise SetupIncomplete(f"The kernel cannot be unpacked: {error}.", hint=_HINT) from error
    if len(elf) > MAX_KERNEL or not elf.startswith(b"\x7fELF\x02\x01"):
        raise SetupIncomplete("The kernel of Debian's package holds no ELF file.", hint=_HINT)
    try:
        pvh_note(elf)
    except SetupIncomplete as error:
        raise SetupIncomplete(error.message, hint=_HINT) from error
    return elf


def initramfs(made: Path, modules: Path) -> bytes:
    """Return the archive: the first process, its modules, and the others as one file.

    Pure except for reading the files. Raises OSError, or SetupIncomplete if it is too large.
    """
    boot = sorted((made / "boot").iterdir())
    files = [Entry(f"boot/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in boot]
    archive = newc(
        [
            *(Entry(name, stat.S_IFDIR | 0o755) for name in ("boot", "dev", "kit")),
            Entry("init", stat.S_IFREG | 0o755, (made / "init").read_bytes()),
            *files,
            Entry("modules.erofs", stat.S_IFREG | 0o644, modules.read_bytes()),
        ]
    )
    if len(archive) > MAX_INITRD:
        raise SetupIncomplete(f"The initramfs has {len(archive) >> 20} MiB.", hint=_HINT)
    return archive


def files_of(kernel: Path) -> tuple[Path, ...]:
    """Return a kernel, full or small, and what else a machine with it needs. Pure."""
    is_full = kernel.name.startswith(_NAME)
    return (kernel, kernel.with_suffix(INITRD)) if is_full else (kernel,)


class FullKernel(Part):
    """Kernel and initramfs of this version of waggle, in `directory`."""

    _absent = "The full guest kernel is not there."

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{_NAME}{full_key()}.elf"

    @property
    def files(self) -> tuple[Path, ...]:
        """The kernel and its initramfs."""
        return files_of(self.path)

    @property
    def initrd(self) -> Path:
        """The initramfs, which adapters find beside the kernel."""
        return self.path.with_suffix(INITRD)

    async def _make(self, mirror: str | None, on_line: OnLine) -> None:
        uri = await asyncio.to_thread(debian.mirror, mirror)
        with workspace(self.path.parent) as work:
            made, modules, initrd = work / "out", work / "modules.erofs", work / "initrd"
            made.mkdir()
            hooks = [f"--extract-hook={hook}" for hook in _hooks(made)]
            argv = debian.tree_argv(uri, packages=PACKAGES, hooks=hooks, options=_OPTIONS)
            await debian.run(argv, on_line)
            tree = made / "made"
            packing = ["mkfs.erofs", "--quiet", "-T0", "--all-root"]
            await debian.run([*packing, str(modules), str(tree / "modules")])
            elf = await asyncio.to_thread(lambda: unpacked((tree / "vmlinuz").read_bytes()))
            archive = await asyncio.to_thread(initramfs, tree, modules)
            await asyncio.to_thread(initrd.write_bytes, archive)
            initrd.chmod(0o444)
            await asyncio.to_thread(place, initrd, self.initrd)
            await asyncio.to_thread(atomic_write, self.path, elf, 0o444)


_OPTIONS = ('--aptopt=Apt::Install-Recommends "false"',)


def _hooks(output: Path) -> list[str]:
    """Return shell lines for mmdebstrap; `$1` is the tree. Only waggle's paths are inserted."""
    links = 'for d in bin sbin lib lib64; do [ -e "$1/$d" ] || ln -s usr/$d "$1/$d"; done'
    return [
        f'{links}; mkdir -p "$1/waggle-kernel"',
        f"sync-in {shlex.quote(str(SOURCES))} /waggle-kernel",
        f'chroot "$1" /usr/bin/busybox sh /waggle-kernel/assemble.sh {shlex.join(MODULES)}',
        f"copy-out /made {shlex.quote(str(output))}",
    ]
