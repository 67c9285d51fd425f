# SPDX-License-Identifier: Apache-2.0
"""Comparison of a root disk with umoci's unpacked tree of the same image, entry by entry."""

from __future__ import annotations

import asyncio
import posixpath
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tests.support.trees import Description, check_directory_links, described, mounted

from waggle.infra.oci.layers import flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.rootfs.disk import RootDisks

Tree = dict[str, Description]


def made(here: Path, image: str) -> Path:
    """Make the server's disk of an image in `here/cache`; `image` is a directory and a tag."""
    resolved = ImageStore(here / "store").resolve(image)
    disk = asyncio.run(RootDisks(here / "cache", flatten).ensure(resolved))
    subprocess.run(["fsck.erofs", disk], check=True, capture_output=True)
    return disk


def read(disk: Path, here: Path) -> Tree:
    """Read a disk through the kernel; mounts it in `here` meanwhile."""
    with mounted(disk, here / "mnt") as top:
        check_directory_links(top)
        return described(top)


def umoci(here: Path, image: str) -> Tree | None:
    """Unpack with umoci; None if it refuses. `image` is a directory and a tag."""
    bundle = here / f"bundle of {Path(image).name}"
    argv = ["umoci", "unpack", "--image", image, bundle]
    if subprocess.run(argv, check=False, capture_output=True, timeout=100).returncode:
        return None
    return described(bundle / "rootfs")


def named_directories(layers: Iterable[BinaryIO]) -> set[str]:
    """Return the names of the directories that have entries in the layers."""
    found: set[str] = set()
    for layer in layers:
        with tarfile.open(fileobj=layer, mode="r|*") as archive:
            found |= {posixpath.normpath("/" + i.name)[1:] or "." for i in archive if i.isdir()}
    return found


def same(ours: Tree, theirs: Tree, began: int, dated: set[str]) -> None:
    """Compare two trees. Directories not in `dated` get the time of unpacking from umoci.

    waggle gives them the epoch, so that the same image makes the same disk. `began` is when umoci
    started, in nanoseconds since the epoch.
    """
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        found = dict(ours[path])
        now = expected["mtime"]
        assert isinstance(now, int)
        if str(expected["mode"])[0] == "d" and path not in dated and now >= began:
            found["mtime"] = now
        assert found == expected, path
