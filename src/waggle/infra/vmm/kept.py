# SPDX-License-Identifier: Apache-2.0
"""One kept binary: its directory, the record beside it, and whether both are as they were added.

`binaries` uses it. A record is written once, with the files, and read as data that may be damaged.
Runs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from waggle.infra.vmm.version import Version, Vmm

RECORD: Final = "record.json"
JAILER: Final = "jailer"
_MOST_RECORD: Final = 64 << 10
_FORMAT: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_SPECIAL: Final = stat.S_ISUID | stat.S_ISGID
_EXECUTABLE: Final = 0o555
_ODD: Final = (OSError, ValueError, LookupError, TypeError, RecursionError)


Identity = tuple[int, ...]
"""Device, inode and time of the last change of a file, since the next one may get its inode."""


@dataclass(frozen=True, slots=True)
class Binary:
    """An installed VMM. `digest` and `jailer_digest` are sha256 in 64 hexadecimal digits.

    `path` and `jailer` are files that every user may execute and only their owner may replace.
    """

    vmm: Vmm
    version: Version
    arch: str
    path: Path
    digest: str
    jailer: Path | None = None
    jailer_digest: str = ""
    added: str = ""
    """When, in UTC."""
    source: str = ""
    """The name of what was added."""
    unasked: str = ""
    """Why its API was not asked for its version; empty when it was."""
    identity: Identity = field(default=(), compare=False)
    jailer_identity: Identity = field(default=(), compare=False)
    """Of the files that were there when the record was read."""

    def record(self) -> bytes:
        """Return the content of the record."""
        fields = {
            "format": _FORMAT,
            "vmm": self.vmm.value,
            "version": str(self.version),
            "arch": self.arch,
            "sha256": self.digest,
            "jailer_sha256": self.jailer_digest,
            "added": self.added,
            "source": self.source,
            "unasked": self.unasked,
        }
        return json.dumps(fields, indent=1).encode()


@dataclass(frozen=True, slots=True)
class Installed:
    """A program in the store, or what is in its place. `problem` is empty when it can be used."""

    vmm: Vmm
    version: Version
    arch: str
    binary: Binary | None
    problem: str


def read(directory: Path) -> Binary:
    """Read the record in `VMM/VERSION/ARCH`. Raises ValueError with the reason."""
    try:
        return _read(directory)
    except _ODD as error:
        raise ValueError(f"its {RECORD} is missing or damaged") from error


def _read(directory: Path) -> Binary:
    descriptor = os.open(directory / RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        fields = cast("dict[str, object]", json.loads(file.read(_MOST_RECORD)))
    vmm, version = Vmm(directory.parts[-3]), Version.parse(directory.parts[-2])
    digest, jailer = str(fields["sha256"]), str(fields["jailer_sha256"])
    named = (str(fields["vmm"]), str(fields["version"]), str(fields["arch"]))
    if fields["format"] != _FORMAT or named != directory.parts[-3:]:
        raise ValueError(directory)
    if not is_digest(digest) or not (jailer == "" or is_digest(jailer)):
        raise ValueError(directory)
    return Binary(
        vmm,
        version,
        named[2],
        directory / vmm.value,
        digest,
        directory / JAILER if jailer else None,
        jailer,
        *(_text(fields[name]) for name in ("added", "source", "unasked")),
        identity=_identity(directory / vmm.value),
        jailer_identity=_identity(directory / JAILER),
    )


def _identity(path: Path) -> Identity:
    with contextlib.suppress(OSError):
        about = path.lstat()
        return about.st_dev, about.st_ino, about.st_ctime_ns
    return ()


def _text(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))[:300]


def is_digest(text: str) -> bool:
    """Whether it is a sha256 in hexadecimal digits. Pure."""
    return _DIGEST.fullmatch(text) is not None


def problem(binary: Binary, root: Path, users: Collection[int]) -> str:
    """Return what is wrong with the files of a binary below `root`; empty when nothing is.

    Only `users` may own them. Blocks to read files that were not read before, or that changed.
    """
    if found := place_problem(root, users):
        return found
    above = [binary.path.parent, *binary.path.parent.parents]
    own = above[: above.index(root)]
    files = [(binary.path, binary.digest)]
    if binary.jailer is not None:
        files.append((binary.jailer, binary.jailer_digest))
    try:
        for path in own:
            if found := _directory_problem(path, path.lstat(), users, strict=True):
                return f"{path} {found}"
        for path, digest in files:
            if found := _file_problem(path.lstat(), users):
                return f"{path} {found}"
            if digest_of(path) != digest:
                return f"{path} was replaced: it is not the program that was added"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def place_problem(root: Path, users: Collection[int]) -> str:
    """Return what is wrong with the store's directory or those above; empty when nothing is.

    No `add` could repair that: only the operator can say who may write there.
    """
    try:
        for path in (root, root.parent, root.parent.parent):
            if found := _directory_problem(path, path.lstat(), users, strict=path == root):
                return f"{path} {found}"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _directory_problem(
    path: Path, about: os.stat_result, users: Collection[int], *, strict: bool
) -> str:
    """Look at a directory of the store, or, less strictly, at one above it."""
    if not stat.S_ISDIR(about.st_mode):
        if strict or not path.is_dir():
            return "was replaced by something else"
        about = path.stat()
    if about.st_uid not in users:
        return f"belongs to user {about.st_uid}, who could replace what is in it"
    others = about.st_mode & (_OTHERS if strict else stat.S_IWOTH)
    if others and (strict or not about.st_mode & stat.S_ISVTX):
        return "can be written by other users"
    return ""


def _file_problem(about: os.stat_result, users: Collection[int]) -> str:
    if not stat.S_ISREG(about.st_mode):
        return "was replaced by something else"
    if about.st_uid not in users:
        return f"belongs to user {about.st_uid}, who could change it"
    if about.st_mode & _OTHERS:
        return "can be written by other users"
    if about.st_mode & (_SPECIAL | _EXECUTABLE) != _EXECUTABLE:
        return "is not executable for all, or runs with the rights of its owner"
    return ""


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, read again only when it changed. Raises OSError."""
    about = path.lstat()
    stamp = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return _digest(path, *stamp)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, *_stamp: int) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
