# SPDX-License-Identifier: Apache-2.0
"""The outer machine without this project: kernel, initramfs, and an ext4 disk with Debian 12.

Kept under a key of all its ingredients, including the code of this package that makes it.
mmdebstrap makes the tree; `lab.assemble`, run by a hook of mmdebstrap, completes it and makes the
disk.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from lab import wheels
from lab.store import Store, key_of
from waggle.infra.shared import debian

KIND = "base"
SUITE = "bookworm"
PACKAGES = (
    *("linux-image-cloud-amd64", "busybox-static", "python3"),
    *("bash", "coreutils", "dash", "findutils", "grep", "gzip", "hostname", "mount", "sed", "tar"),
    *("e2fsprogs", "erofs-utils", "iproute2", "procps", "strace", "util-linux"),
    "qemu-system-x86",  # with KVM inside, Firecracker is compared with it
)
DISK, KERNEL, INITRAMFS = "base.ext4", "vmlinuz", "initramfs"
_RECIPE = ("assemble.py", "base.py", "initramfs.py", "wheels.py")
APT = (
    '--aptopt=Acquire::Languages "none"',
    '--aptopt=Apt::Install-Recommends "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
)
"""Options of mmdebstrap that keep a tree small."""


def base_key(requirements: str) -> str:
    """Return the key of the base. Reads the files of the recipe."""
    recipe = [(Path(__file__).parent / name).read_bytes() for name in _RECIPE]
    return key_of(requirements, *recipe)


def tree_argv(mirror: str, site: Path, out: Path) -> list[str]:
    """Return the mmdebstrap command. Pure."""
    finish = shlex.join([sys.executable, str(Path(__file__).with_name("assemble.py"))])
    places = shlex.join([str(site), str(out)])
    return debian.tree_argv(
        mirror,
        suite=SUITE,
        packages=PACKAGES,
        hooks=[f'--extract-hook={finish} "$1" {places}'],
        options=APT,
    )


async def ensure(store: Store, mirror: str, requirements: str, on_line: debian.OnLine) -> Path:
    """Return the directory with disk, kernel and initramfs. Raises SetupIncomplete."""
    wanted = wheels.select(requirements)

    async def make(directory: Path) -> None:
        scratch = directory / "wheels"
        scratch.mkdir()
        site = await wheels.install(wanted, scratch, on_line)
        await debian.run(tree_argv(mirror, site, directory), on_line)

    return await store.ensure(KIND, base_key(wanted), make)
