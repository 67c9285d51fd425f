# SPDX-License-Identifier: Apache-2.0
"""The directory of a frozen machine: memory, devices, two disks, and a manifest that comes last.

Used by the stores of templates and snapshots and for paused environments. A directory with a
manifest is whole; the manifest has the digests of the files, and facts for whoever wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import cast

from waggle.domain.errors import MomentUnusable
from waggle.infra.shared.files import atomic_write

MANIFEST = "manifest.json"
SCRATCH, IDENTITY = "scratch.img", "identity.img"
FILES = ("ram", "state", SCRATCH, IDENTITY)
_FORMAT = 2
BLOCK = 1 << 16
_ODD = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


def seal(directory: Path, facts: Mapping[str, object]) -> None:
    """Write the manifest, which makes it whole. Blocks while files are read. Raises OSError."""
    digests = {name: sparse_digest(directory / name) for name in FILES}
    manifest = {"format": _FORMAT, "facts": facts, "sha256": digests}
    atomic_write(directory / MANIFEST, json.dumps(manifest, indent=1).encode(), 0o600)


def amend(directory: Path, facts: Mapping[str, object]) -> None:
    """Have other facts in a manifest, whose files stay as they are. Raises OSError, ValueError."""
    manifest = {**_manifest(directory), "facts": facts}
    atomic_write(directory / MANIFEST, json.dumps(manifest, indent=1).encode(), 0o600)


def facts(directory: Path) -> dict[str, object]:
    """What was told to `seal`. Raises OSError, or ValueError when it is not a manifest of ours."""
    return _table(_manifest(directory), "facts")


def problem(directory: Path) -> str | None:
    """What is wrong with the files, if anything. Blocks while they are read."""
    try:
        digests = _table(_manifest(directory), "sha256")
    except FileNotFoundError:
        return "it is not whole"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} is corrupt: {error}"
    for name in FILES:
        try:
            if sparse_digest(directory / name) != digests.get(name):
                return f"{name} is corrupt"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


@contextlib.contextmanager
def understanding() -> Generator[None]:
    """What may go wrong while facts of a manifest are read, as MomentUnusable with the reason."""
    try:
        yield
    except _ODD as error:
        raise MomentUnusable(f"Its manifest is not one of ours: {repr(error)[:200]}.") from error


def stamp(directory: Path) -> tuple[tuple[int, int, int], ...]:
    """Another one when a file was written or replaced since. Raises OSError."""
    looks = ((directory / name).stat() for name in (*FILES, MANIFEST))
    return tuple((look.st_ino, look.st_size, look.st_mtime_ns) for look in looks)


def size(directory: Path) -> int:
    """Bytes that it takes on the disk. Raises OSError."""
    return sum(each.stat().st_blocks * 512 for each in directory.iterdir())


def _manifest(directory: Path) -> dict[str, object]:
    try:
        manifest: object = json.loads((directory / MANIFEST).read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(manifest, dict):
        raise ValueError("it is not an object")
    told = cast("dict[str, object]", manifest)
    if told.get("format") != _FORMAT:
        raise ValueError("it has another format")
    return told


def _table(manifest: dict[str, object], name: str) -> dict[str, object]:
    table = manifest.get(name)
    if not isinstance(table, dict):
        raise ValueError(f"it has no {name}")
    return cast("dict[str, object]", table)


def sparse_digest(path: Path) -> str:
    """Of a file's size and its blocks that are not zero, wherever its holes are. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        digest.update(length.to_bytes(8, "big"))
        for at in data_blocks(file.fileno(), length):
            block = os.pread(file.fileno(), BLOCK, at)
            if block.strip(b"\0"):
                digest.update(at.to_bytes(8, "big") + block)
    return digest.hexdigest()


def data_blocks(descriptor: int, length: int) -> Generator[int]:
    """The offsets of all blocks that may hold data, in order."""
    at = 0
    while at < length:
        try:
            at = max(at, os.lseek(descriptor, at, os.SEEK_DATA) // BLOCK * BLOCK)
        except OSError:  # no data behind this offset
            return
        yield at
        at += BLOCK
