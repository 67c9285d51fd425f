# SPDX-License-Identifier: Apache-2.0
"""Descriptions of directory trees entry by entry, and mounts of EROFS disks. Needs root."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
from collections.abc import Generator
from pathlib import Path

Description = dict[str, object]


def described(top: Path) -> dict[str, Description]:
    """Describe all files below `top` as far as an image can, by path; `.` is the top."""
    paths = [top, *sorted(Path(d) / n for d, ds, fs in os.walk(top) for n in (*ds, *fs))]
    names: dict[int, list[str]] = {}
    for path in paths:
        names.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(top)))
    return {str(path.relative_to(top)): _describe(path, names) for path in paths}


def _describe(path: Path, names: dict[int, list[str]]) -> Description:
    info = path.lstat()
    mode = info.st_mode
    regular, device = stat.S_ISREG(mode), stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return {
        "mode": stat.filemode(mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "size": info.st_size if regular else 0,
        "content": hashlib.sha256(path.read_bytes()).hexdigest() if regular else "",
        "target": str(path.readlink()) if stat.S_ISLNK(mode) else "",
        "device": (os.major(info.st_rdev), os.minor(info.st_rdev)) if device else (),
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        },
        "names": () if stat.S_ISDIR(mode) else tuple(sorted(names[info.st_ino])),
        "mtime": info.st_mtime_ns,
    }


def check_directory_links(top: Path) -> None:
    """Check that a directory has two links and one for each directory in it."""
    for directory, below, _ in os.walk(top):
        real = [name for name in below if not (Path(directory) / name).is_symlink()]
        assert Path(directory).stat().st_nlink == 2 + len(real), directory


@contextlib.contextmanager
def mounted(disk: Path, where: Path) -> Generator[Path]:
    """Mount an EROFS disk for the length of the block."""
    where.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", disk, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
