# SPDX-License-Identifier: Apache-2.0
"""What is on a root disk, read by the kernel, held against what umoci unpacks from the same image.

Entry by entry: type, mode, owner, size, content, link target, link count, device, attributes and
time. Needs root to mount and to make device nodes; a user who is not root gets a loud skip.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from tests.support.images import (
    Layer,
    device,
    directory,
    fifo,
    file,
    hard_link,
    opaque,
    symlink,
    whiteout,
    write_layout,
)

from waggle.infra.oci.flatten import flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.rootfs.disk import RootDisks

root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="MOUNTING A DISK NEEDS ROOT: run these tests as root too"
)

CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)

CORPUS: dict[str, list[Layer]] = {
    "plain": [[directory("d", 0o1777, uid=5, gid=6), file("d/f", b"content", 0o640, uid=7, gid=8)]],
    "empty": [[]],
    "root metadata": [[directory("./", 0o711, uid=1, gid=2), file("x")]],
    "setuid and modes": [
        [file("su", b"#!", 0o4755), file("sg", b"#!", 0o2755), file("none", b"", 0o000)]
    ],
    "sizes": [[file(f"f{n}", os.urandom(n)) for n in (0, 1, 2047, 2048, 2049, 4096, 4097, 99_999)]],
    "links": [
        [
            file("a", b"1" * 3000),
            hard_link("b", "a"),
            directory("d"),
            hard_link("d/c", "./a"),
            symlink("rel", "d/c"),
            symlink("abs", "/a"),
            symlink("dangling", "no/where"),
            symlink("long", "x/" * 2000 + "y"),
        ]
    ],
    "special files": [
        [
            device("null", tarfile.CHRTYPE, 1, 3, 0o666),
            device("disk", tarfile.BLKTYPE, 259, 70_000),
            fifo("pipe", 0o622),
        ]
    ],
    "attributes": [
        [
            file("ping", b"x", 0o755, pax_headers={
                "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}),
            file("two", b"y" * 5000, pax_headers={
                "SCHILY.xattr.user.one": "1", "SCHILY.xattr.user.two": "2" * 900}),
            directory("dir", pax_headers={"SCHILY.xattr.user.d": "dir"}),
        ]
    ],
    "whiteouts": [
        [directory("d"), file("d/a"), file("d/b"), directory("e"), file("e/x"), file("f")],
        [whiteout("d/a"), whiteout("e"), file("new")],
    ],
    "opaque": [
        [directory("d"), file("d/a"), directory("d/s"), file("d/s/b")],
        [directory("d", 0o750), opaque("d"), file("d/c"), directory("d/s"), file("d/s/n")],
        [file("d/late")],
    ],
    "replaced": [
        [directory("a"), file("a/x"), file("b"), symlink("c", "b"), directory("g/h")],
        [file("a", b"now a file"), directory("b"), file("b/y"), directory("c"), file("c/z")],
    ],
    "links across layers": [
        [file("a", b"one"), file("k", b"k")],
        [hard_link("b", "a"), hard_link("a2", "/a"), whiteout("k")],
        [file("a", b"another")],
    ],
    "symlinked parents": [
        [directory("usr/bin"), symlink("bin", "usr/bin"), symlink("abs", "/usr/bin")],
        [file("bin/one", b"1"), file("abs/two", b"2")],
        [whiteout("bin/one"), hard_link("three", "bin/two")],
    ],
    "climbing symlink": [[symlink("evil", "../../../../../tmp")], [file("evil/inside", b"x")]],
    "many names": [
        [directory("d"), *(file(f"d/{n:03}" + "n" * (n % 200), b"%d" % n) for n in range(700))],
        [whiteout("d/000"), *(file(f"d/{n:03}x" * 3) for n in range(50))],
    ],
    "long and odd names": [
        [
            file("ä ö\t\n", b"x"),
            file("a" * 255, b"y"),
            file("/".join(["deep" * 20] * 20), b"z"),
            file("!first"), file(".hidden"), file("..x"), file("~last"),
        ]
    ],
}  # fmt: skip


def describe(path: Path, links: dict[int, list[str]]) -> tuple[object, ...]:
    """Everything about one file that an image can say, but the time."""
    info = path.lstat()
    mode = info.st_mode
    content = link = ""
    if stat.S_ISREG(mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(mode):
        link = str(path.readlink())
    device_number = info.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    names = sorted(os.listxattr(path, follow_symlinks=False))
    attributes = [(n, os.getxattr(path, n, follow_symlinks=False)) for n in names]
    same = () if stat.S_ISDIR(mode) else tuple(sorted(links[info.st_ino]))
    size = info.st_size if stat.S_ISREG(mode) else 0
    return (
        stat.filemode(mode), info.st_uid, info.st_gid, size, content, link, device_number,
        attributes, same,
    )  # fmt: skip


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Describe every file of a tree, by its path."""
    paths = [top, *sorted(top.rglob("*"))]
    links: dict[int, list[str]] = {}
    for path in paths:
        links.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(top)))
    return {str(path.relative_to(top)): describe(path, links) for path in paths}


def times(top: Path) -> dict[str, int]:
    """Modification times of what the layers date: not the directories that they only imply."""
    found = {str(p.relative_to(top)): p.lstat() for p in top.rglob("*")}
    return {name: i.st_mtime_ns for name, i in found.items() if not stat.S_ISDIR(i.st_mode)}


@contextlib.contextmanager
def mounted(disk: Path, where: Path) -> Generator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", disk, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def make(tmp_path: Path, layers: Sequence[Layer], compression: str = "gzip") -> Path:
    write_layout(tmp_path / "layout", layers, compression=compression)
    image = ImageStore(tmp_path / "store").resolve(f"{tmp_path}/layout:latest")
    return asyncio.run(RootDisks(tmp_path / "cache", flatten).ensure(image))


@root_only
@pytest.mark.parametrize("name", CORPUS)
def test_a_disk_holds_what_umoci_unpacks(tmp_path: Path, name: str) -> None:
    disk = make(tmp_path, CORPUS[name])
    subprocess.run(["fsck.erofs", disk], check=True, capture_output=True)
    bundle = tmp_path / "bundle"
    image = f"{tmp_path}/layout:latest"
    subprocess.run(["umoci", "unpack", "--image", image, bundle], check=True, capture_output=True)
    with mounted(disk, tmp_path / "mnt") as top:
        expected, found = snapshot(bundle / "rootfs"), snapshot(top)
        assert found.keys() == expected.keys()
        for path, description in expected.items():
            assert found[path] == description, path
        assert times(top) == times(bundle / "rootfs")
        for path in top.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                below = [p for p in path.iterdir() if p.is_dir() and not p.is_symlink()]
                assert path.stat().st_nlink == 2 + len(below)


@root_only
@pytest.mark.parametrize("compression", ["zstd", ""])
def test_compression_makes_no_difference(tmp_path: Path, compression: str) -> None:
    layers = CORPUS["links across layers"]
    disk = make(tmp_path, layers, compression)
    with mounted(disk, tmp_path / "mnt") as top:
        assert (top / "a").read_bytes() == b"another"
        assert (top / "b").read_bytes() == b"one"


@root_only
def test_a_user_without_rights_makes_the_very_same_disk(tmp_path: Path) -> None:
    layers = [CORPUS["special files"][0], CORPUS["attributes"][0], CORPUS["setuid and modes"][0]]
    by_root = make(tmp_path, layers).read_bytes()
    cache = tmp_path / "theirs"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(path.stat().st_mode | 0o111)
    program = """
        import asyncio, os, pathlib, sys
        from waggle.infra.oci.flatten import flatten
        from waggle.infra.oci.store import ImageStore
        from waggle.infra.rootfs.disk import RootDisks

        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)
        cache = pathlib.Path(sys.argv[1])
        image = ImageStore(cache / "store").resolve(sys.argv[2])
        asyncio.run(RootDisks(cache, flatten).ensure(image))
    """
    argv = [sys.executable, "-c", textwrap.dedent(program), cache, f"{tmp_path}/layout:latest"]
    subprocess.run(argv, check=True)
    [made] = cache.glob("*.erofs")
    assert made.stat().st_uid == 12345
    assert made.read_bytes() == by_root
