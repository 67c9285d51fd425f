# SPDX-License-Identifier: Apache-2.0
"""The directory of a frozen machine: memory, devices, two disks, and a manifest that comes last.

Used by the stores of templates and snapshots and for paused environments. A directory with a
manifest is whole; the manifest has the digests of the files, and facts for whoever wrote it.

Templates on the disk: one directory each, with a manifest that is written last.

A directory with a manifest is whole: it was made under another name and renamed. What a killed
server left of others is removed by `sweep`. Safe for several processes, which share the cache.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import structlog

from waggle.domain.errors import MomentUnusable
from waggle.domain.machine import IDENTITY, RAM, SCRATCH, STATE
from waggle.domain.snapshot import Template, TemplateKey
from waggle.infra.shared.files import atomic_write
from waggle.infra.shared.work import place, sweep, workspace

MANIFEST = "manifest.json"
FILES = (RAM, STATE, SCRATCH, IDENTITY)
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


log = structlog.get_logger(__name__)


class TemplateStore:
    """The templates below `directory`, which is made when the first one is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._verified: dict[Path, int] = {}

    def find(self, key: TemplateKey) -> Template | None:
        """The template for that key, verified once in this process; a corrupt one is removed."""
        path = self.directory / key.id
        if (template := _read(path)) is None or template.key.differences(key):
            return None
        inode = path.stat().st_ino
        if self._verified.get(path) != inode:
            if (why := problem(path)) is not None:
                log.warning("template_removed", template=key.id, problem=why)
                self.remove(key.id)
                return None
            self._verified[path] = inode
        with contextlib.suppress(OSError):
            os.utime(path)
        return template

    def all(self) -> list[Template]:
        """Every whole template, the one used last first."""
        if not self.directory.is_dir():
            return []
        found = (_read(path) for path in self.directory.iterdir() if path.name[0] != ".")
        return sorted(filter(None, found), key=lambda each: each.used_at, reverse=True)

    @contextlib.contextmanager
    def workspace(self) -> Generator[Path]:
        """A new directory, gone with the block unless `place` took it."""
        with workspace(self.directory, 0o700) as work:
            made = work / "template"
            made.mkdir(mode=0o700)
            yield made

    def place(self, key: TemplateKey, work: Path) -> None:
        """Make what is in a workspace the template for that key. Raises OSError.

        Whoever was faster keeps the place, templates for one key being alike, unless what is there
        cannot be read.
        """
        seal(work, key.parts)
        target = self.directory / key.id
        try:
            place(work, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if _read(target) is None:  # of another version of waggle
                shutil.rmtree(target, ignore_errors=True)
                place(work, target)

    def remove(self, template_id: str) -> bool:
        """Remove a template; machines that came of it go on. Says whether there was one."""
        path = self.directory / template_id
        self._verified.pop(path, None)
        if not (path / MANIFEST).exists():
            return False
        (path / MANIFEST).unlink(missing_ok=True)  # from here on it does not count
        shutil.rmtree(path, ignore_errors=True)
        return True

    def trim(self, each: int, together: int) -> None:
        """Of templates that are one owner's, keep the last used: so many of each, and of all."""
        kept = Counter[str]()
        for template in self.all():
            owner = template.key.parts.get("owner")
            if owner is None:
                continue
            if kept[owner] >= each or kept.total() >= together:
                self.remove(template.key.id)
            else:
                kept[owner] += 1

    def sweep(self) -> None:
        """Remove workspaces that nobody holds, and directories without a manifest."""
        sweep(self.directory)
        if self.directory.is_dir():
            for path in self.directory.glob("[!.]*/"):
                if not (path / MANIFEST).exists():
                    shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> Template | None:
    try:
        about = path.stat()
        made = (path / MANIFEST).stat()
        return Template(
            key=TemplateKey({str(name): str(part) for name, part in facts(path).items()}),
            directory=path,
            created_at=datetime.fromtimestamp(made.st_mtime, UTC),
            used_at=datetime.fromtimestamp(about.st_mtime, UTC),
            size=size(path),
        )
    except (OSError, ValueError):
        return None
