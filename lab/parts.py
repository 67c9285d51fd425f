# SPDX-License-Identifier: Apache-2.0
"""The second disk: libkrun, libkrunfw, and the guest's kernel, kit and images, ready to boot.

Mounted at /var/lib/waggle, so that waggle finds its cache where it looks for it and builds nothing.
Of the image store only what names and describes images goes in, not the layers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from lab.store import Store, key_of
from waggle.app.values import image_references, image_service
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.host import no_progress
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.host.kernel import GuestKernel
from waggle.infra.rootfs.kit.build import GuestKit
from waggle.infra.shared import debian

KIND = "parts"
DISK = "parts.ext4"
RUNTIMES = (RuntimeName.PYTHON, RuntimeName.SHELL)
SIZE = 4 << 30
_FORMAT = "1"
_DOCUMENT_BYTES = 1 << 20
Files = Mapping[PurePosixPath, Path]
"""Where each file is inside, and where it is now."""


async def guest_files(settings: Settings, on_line: debian.OnLine) -> Files:
    """Kernel, kit and images, made now where they are missing but for the images.

    Raises SetupIncomplete or ImageMissing, which says how to build one.
    """
    places, mirror = Places.of(settings), settings.debian_mirror or None
    kernel = await GuestKernel(places.guest).ensure(mirror, on_line)
    kit = await GuestKit(places.guest).ensure(mirror, on_line)
    service, references = image_service(settings), image_references(settings)
    disks = [(await service.boot_image(references[name], no_progress)).disk for name in RUNTIMES]
    cache = PurePosixPath("cache")
    files = {cache / "guest" / path.name: path for path in (kernel, kit)}
    files |= {cache / "disks" / disk.name: disk for disk in disks}
    files |= {cache / "images" / name: path for name, path in documents(places.images).items()}
    return files


def documents(layout: Path) -> Files:
    """What names and describes images in a layout; not its layers, nor what is half made."""
    whole = [layout / "index.json", layout / "oci-layout", *(layout / "blobs").glob("*/*")]
    return {
        PurePosixPath(path.relative_to(layout)): path
        for path in whole
        if path.is_file() and 0 < path.stat().st_size < _DOCUMENT_BYTES
    }


def files_key(files: Files) -> str:
    """What the disk is kept by: names, sizes and times of change."""
    lines: list[str] = []
    for name, path in sorted(files.items()):
        found = path.stat()
        lines.append(f"{name} {found.st_size} {found.st_mtime_ns}")
    return key_of(_FORMAT, *lines)


def disk_argv(tree: Path, disk: Path) -> list[str]:
    """The command that makes the disk. Pure."""
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode"),
        *("-E", "root_owner=0:0,lazy_itable_init=1", "-d", str(tree), str(disk)),
    ]


async def ensure(store: Store, files: Files, on_line: debian.OnLine) -> Path:
    """The directory that holds the disk. Raises SetupIncomplete."""

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
    """Link or copy a file to where it is wanted; `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def libraries(found: Sequence[Path]) -> Files:
    """The shared libraries in these directories, as they are called inside."""
    return {
        PurePosixPath("lib", library.name): library
        for directory in found
        for library in sorted(directory.iterdir())
    }
