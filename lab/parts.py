# SPDX-License-Identifier: Apache-2.0
"""The second disk: libkrun, libkrunfw, Firecracker, and the guest's kernel, kit and images.

Mounted at /var/lib/waggle, so that waggle finds its cache in the usual place and builds nothing.
Holds only the image store's documents (names and descriptions of images), not the layers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from lab.jobs import CLOUD_HYPERVISOR
from lab.store import Store, key_of
from waggle.app.values import image_references, image_service
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.host import no_progress
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.rootfs.full_kernel import INITRD, FullKernel
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.shared import debian

KIND = "parts"
DISK = "parts.ext4"
RUNTIMES = (RuntimeName.PYTHON, RuntimeName.SHELL)
SIZE = 4 << 30
_FORMAT = "1"
_DOCUMENT_BYTES = 1 << 20
Files = Mapping[PurePosixPath, Path]
"""Paths on the disk, and the files on the host."""


async def guest_files(
    settings: Settings, on_line: debian.OnLine, cloud_hypervisor: Path | None = None
) -> Files:
    """Return kernel, kit and images. Makes a missing kernel or kit, but no images.

    With the program of a Cloud Hypervisor also that, and the full kernel of its machines.
    Raises SetupIncomplete, or ImageMissing, which says how to build one.
    """
    places, mirror = Places.of(settings), settings.debian_mirror or None
    kernel = await GuestKernel(places.guest).ensure(mirror, on_line)
    kit = await GuestKit(places.guest).ensure(mirror, on_line)
    service, references = image_service(settings), image_references(settings)
    disks = [(await service.boot_image(references[name], no_progress)).disk for name in RUNTIMES]
    cache = PurePosixPath("cache")
    kernels = [kernel]
    if cloud_hypervisor is not None:
        full = await FullKernel(places.guest).ensure(mirror, on_line)
        kernels += [full, full.with_suffix(INITRD)]
    files = {cache / "guest" / path.name: path for path in (*kernels, kit)}
    if cloud_hypervisor is not None:
        files[PurePosixPath("vmm", CLOUD_HYPERVISOR.name)] = cloud_hypervisor
    files |= {cache / "disks" / disk.name: disk for disk in disks}
    files |= {cache / "images" / name: path for name, path in documents(places.images).items()}
    return files


def documents(layout: Path) -> Files:
    """Return the documents of images in a layout, without layers and unfinished files."""
    whole = [layout / "index.json", layout / "oci-layout", *(layout / "blobs").glob("*/*")]
    return {
        PurePosixPath(path.relative_to(layout)): path
        for path in whole
        if path.is_file() and 0 < path.stat().st_size < _DOCUMENT_BYTES
    }


def files_key(files: Files) -> str:
    """Return the key of the disk, made of names, sizes and modification times."""
    lines: list[str] = []
    for name, path in sorted(files.items()):
        found = path.stat()
        lines.append(f"{name} {found.st_size} {found.st_mtime_ns}")
    return key_of(_FORMAT, *lines)


def disk_argv(tree: Path, disk: Path) -> list[str]:
    """Return the command that makes the disk. Pure."""
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode"),
        *("-E", "root_owner=0:0,lazy_itable_init=1", "-d", str(tree), str(disk)),
    ]


async def ensure(store: Store, files: Files, on_line: debian.OnLine) -> Path:
    """Return the directory that holds the disk. Raises SetupIncomplete."""

    async def make(directory: Path) -> None:
        tree, disk = directory / "tree", directory / DISK
        for name, path in files.items():
            place(path, tree / name)
        disk.touch()
        os.truncate(disk, SIZE)
        await debian.run(disk_argv(tree, disk), on_line)
        shutil.rmtree(tree)

    return await store.ensure(KIND, files_key(files), make)


def place(source: Path, target: Path) -> Path:
    """Link or copy a file to `target` and return `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def libraries(found: Sequence[Path]) -> Files:
    """Return the shared libraries in these directories with their names on the disk."""
    return _below("lib", found)


def machine_monitors(found: Sequence[Path]) -> Files:
    """Return the programs in these directories with their names on the disk."""
    return _below("vmm", found)


def _below(name: str, found: Sequence[Path]) -> Files:
    return {
        PurePosixPath(name, file.name): file
        for directory in found
        for file in sorted(directory.iterdir())
    }
