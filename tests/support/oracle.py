# SPDX-License-Identifier: Apache-2.0
"""A root disk and what umoci unpacks from the same image, held together entry by entry."""

from __future__ import annotations

import asyncio
import posixpath
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tests.support.trees import Description, check_directory_links, described, mounted

from waggle.infra.oci.layers.flatten import flatten
from waggle.infra.oci.store.store import ImageStore
from waggle.infra.rootfs.disk import RootDisks

Tree = dict[str, Description]


def made(here: Path, image: str) -> Path:
    """The disk that the server would boot, in `here/cache`; `image` is a directory and a tag."""
    resolved = ImageStore(here / "store").resolve(image)
    disk = asyncio.run(RootDisks(here / "cache", flatten).ensure(resolved))
    subprocess.run(["fsck.erofs", disk], check=True, capture_output=True)
    return disk


def read(disk: Path, here: Path) -> Tree:
    """What the kernel finds on a disk, which is mounted in `here` for the moment."""
    with mounted(disk, here / "mnt") as top:
        check_directory_links(top)
        return described(top)


def umoci(here: Path, image: str) -> Tree | None:
    """What umoci unpacks, or None where it refuses. `image` is a directory and a tag."""
    bundle = here / f"bundle of {Path(image).name}"
    argv = ["umoci", "unpack", "--image", image, bundle]
    if subprocess.run(argv, check=False, capture_output=True, timeout=100).returncode:
        return None
    return described(bundle / "rootfs")


def named_directories(layers: Iterable[BinaryIO]) -> set[str]:
    """The directories that the layers have entries of, by the names of those."""
    found: set[str] = set()
    for layer in layers:
        with tarfile.open(fileobj=layer, mode="r|*") as archive:
            found |= {posixpath.normpath("/" + i.name)[1:] or "." for i in archive if i.isdir()}
    return found


def same(ours: Tree, theirs: Tree, began: int, dated: set[str]) -> None:
    """Hold two trees together. Of directories not in `dated`, umoci's time is that of unpacking.

    waggle's is the epoch, so that the same image makes the same disk. `began` is when umoci did, in
    nanoseconds since the epoch.
    """
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        found = dict(ours[path])
        now = expected["mtime"]
        assert isinstance(now, int)
        if str(expected["mode"])[0] == "d" and path not in dated and now >= began:
            found["mtime"] = now
        assert found == expected, path
