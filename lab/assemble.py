# SPDX-License-Identifier: Apache-2.0
"""Complete the tree of the base disk and make the disk: a hook that mmdebstrap runs as root.

`assemble.py TREE SITE OUT`. The packages' scripts did not run, so this makes the few files that
they would have made. Imports only `initramfs` from this directory and the standard library.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import initramfs

SIZE = 6 << 30
"""Size of a sparse file; the writes of a run are discarded with it."""
MOUNTED = ("dev", "proc", "sys")
DIRECTORIES = ("etc", "lab", "root", "run", "tmp", "var/lib/waggle", "var/tmp")
FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": "root:x:0:\ntty:x:5:\nkvm:x:108:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/hostname": "lab\n",
}
LIBRARIES = {"libkrun.so.1": "libkrun.so", "libkrunfw.so.5": "libkrunfw.so.5"}
"""Names on the loader's path, and the names on the second disk."""
LIBRARY_DIRECTORY = "usr/lib/x86_64-linux-gnu"
SITE = "usr/local/lib/python3.11/dist-packages"


def complete(tree: Path, site: Path) -> None:
    """Add files that the packages leave out and the Python packages, and compile all Python."""
    for name in DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (tree / name).chmod(0o1777)
    for name, text in FILES.items():
        (tree / name).write_text(text)
    for name, target in LIBRARIES.items():
        (tree / LIBRARY_DIRECTORY / name).symlink_to(f"/var/lib/waggle/lib/{target}")
    shutil.copytree(site, tree / SITE, symlinks=True, dirs_exist_ok=True)
    argv = ["chroot", str(tree), "/usr/bin/python3", "-m", "compileall", "-q"]
    # Python 2 templates and similar files of Debian do not compile.
    subprocess.run([*argv, "/usr/lib/python3", "/usr/lib/python3.11", f"/{SITE}"], check=False)


@contextlib.contextmanager
def without_mounts(tree: Path) -> Generator[Path]:
    """Yield the tree with empty directories where mmdebstrap has mounted the host's devices."""
    stage = tree / "lab-stage"
    stage.mkdir(mode=0o755)
    moved = [path for path in tree.iterdir() if path.name not in (*MOUNTED, stage.name)]
    for path in moved:
        path.rename(stage / path.name)
    for name in MOUNTED:
        (stage / name).mkdir()
    try:
        yield stage
    finally:
        for path in moved:
            (stage / path.name).rename(path)
        shutil.rmtree(stage)


def make_disk(tree: Path, disk: Path) -> None:
    """Make an ext4 file system of the tree in a sparse file, without a journal."""
    disk.touch()
    os.truncate(disk, SIZE)
    subprocess.run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode"),
            *("-E", "root_owner=0:0,lazy_itable_init=1", "-d", str(tree), str(disk)),
        ],
        check=True,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )


def main(argv: list[str]) -> None:
    """Run all steps in order."""
    tree, site, out = map(Path, argv)
    complete(tree, site)
    (out / "initramfs").write_bytes(initramfs.build(tree))
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, out / "vmlinuz")
    shutil.rmtree(tree / "boot")
    with without_mounts(tree) as whole:
        make_disk(whole, out / "base.ext4")
    shutil.rmtree(site.parent)


if __name__ == "__main__":
    main(sys.argv[1:])
