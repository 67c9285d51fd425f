# SPDX-License-Identifier: Apache-2.0
"""The directory of a frozen machine (memory, devices, two disks, manifest), and the template store.

Used by `service.local.frozen` for templates, snapshots and environments that are paused to disk.
The manifest is written last, so a directory with a manifest is complete; it has the digests of the
files, and facts for its writer.
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

from waggle.domain.errors import FrozenMachineUnusable
from waggle.domain.machine import IDENTITY, RAM, SCRATCH, STATE
from waggle.domain.snapshot import Template, TemplateKey
from waggle.infra.shared.files import atomic_write
from waggle.infra.shared.work import place, sweep, workspace

MANIFEST = "manifest.json"
FILES = (RAM, STATE, SCRATCH, IDENTITY)
_FORMAT = 2
_MOST_STAMPS = 4096
BLOCK = 1 << 16
_ODD = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


def seal(directory: Path, facts: Mapping[str, object]) -> None:
    """Write the manifest, which completes a directory. Blocks to read the files. Raises OSError."""
    digests = {name: sparse_digest(directory / name) for name in FILES}
    manifest = {"format": _FORMAT, "facts": facts, "sha256": digests}
    atomic_write(directory / MANIFEST, json.dumps(manifest, indent=1).encode(), 0o600)


def amend(directory: Path, facts: Mapping[str, object]) -> None:
    """Replace the facts in a manifest; the files stay the same. Raises OSError, ValueError."""
    atomic_write(directory / MANIFEST, with_facts(directory, facts), 0o600)


def with_facts(directory: Path, facts: Mapping[str, object]) -> bytes:
    """Return the manifest as it would be with other facts. Raises OSError, ValueError."""
    return json.dumps({**_manifest(directory), "facts": facts}, indent=1).encode()


def facts(directory: Path) -> dict[str, object]:
    """Return the facts that `seal` wrote. Raises OSError, or ValueError for a foreign manifest."""
    return _table(_manifest(directory), "facts")


def problem(directory: Path) -> str | None:
    """Return what is wrong with the files, or None. Blocks to read them."""
    try:
        digests = _table(_manifest(directory), "sha256")
    except FileNotFoundError:
        return "it is incomplete"
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
    """Turn the block's errors of reading a manifest's facts into FrozenMachineUnusable."""
    try:
        yield
    except _ODD as error:
        raise FrozenMachineUnusable(
            f"Its manifest is not one of ours: {repr(error)[:200]}."
        ) from error


class Verified:
    """The directories that this process sealed or verified, and so need not be read again."""

    def __init__(self) -> None:
        self._stamps: set[object] = set()

    def seal(self, directory: Path, facts: Mapping[str, object]) -> None:
        """See `seal`."""
        seal(directory, facts)
        self._note(_stamp(directory))

    def problem(self, directory: Path) -> str | None:
        """See `problem`. Files whose inode, size and time are those of before are not read."""
        try:
            stamp = _stamp(directory)
        except OSError:
            return problem(directory)
        if stamp in self._stamps:
            return None
        if (why := problem(directory)) is None:
            self._note(stamp)
        return why

    def _note(self, stamp: object) -> None:
        if len(self._stamps) >= _MOST_STAMPS:
            self._stamps.clear()
        self._stamps.add(stamp)


def _stamp(directory: Path) -> tuple[tuple[int, int, int], ...]:
    """Return a value that changes when a file is written or replaced. Raises OSError."""
    looks = ((directory / name).stat() for name in (*FILES, MANIFEST))
    return tuple((look.st_ino, look.st_size, look.st_mtime_ns) for look in looks)


def size(directory: Path) -> int:
    """Return the bytes that the directory's files take on the disk. Raises OSError."""
    return sum(file.stat().st_blocks * 512 for file in directory.iterdir())


def _manifest(directory: Path) -> dict[str, object]:
    try:
        manifest: object = json.loads((directory / MANIFEST).read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(manifest, dict):
        raise ValueError("it is not an object")
    fields = cast("dict[str, object]", manifest)
    if fields.get("format") != _FORMAT:
        raise ValueError("it has another format")
    return fields


def _table(manifest: dict[str, object], name: str) -> dict[str, object]:
    table = manifest.get(name)
    if not isinstance(table, dict):
        raise ValueError(f"it has no {name}")
    return cast("dict[str, object]", table)


def sparse_digest(path: Path) -> str:
    """Return a digest of a file's size and nonzero blocks, independent of holes. Raises OSError."""
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
    """Yield the offsets of all blocks that may hold data, in order."""
    at = 0
    while at < length:
        try:
            at = max(at, os.lseek(descriptor, at, os.SEEK_DATA) // BLOCK * BLOCK)
        except OSError:  # no data after this offset
            return
        yield at
        at += BLOCK


log = structlog.get_logger(__name__)


class TemplateStore:
    """The templates below `directory`, which is made with the first one.

    One directory per template, made under another name and renamed. `sweep` removes what killed
    servers left. Safe for several processes, which share the cache.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._verified = Verified()

    def find(self, key: TemplateKey) -> Template | None:
        """Return the template for that key, verified once per process; remove a corrupt one."""
        path = self.directory / key.id
        if (template := _read(path)) is None or template.key.differences(key):
            return None
        if (why := self._verified.problem(path)) is not None:
            log.warning("template_removed", template=key.id, problem=why)
            self.remove(key.id)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return template

    def all(self) -> list[Template]:
        """Return all complete templates, the last used first."""
        if not self.directory.is_dir():
            return []
        found = (_read(path) for path in self.directory.iterdir() if path.name[0] != ".")
        return sorted(filter(None, found), key=lambda template: template.used_at, reverse=True)

    @contextlib.contextmanager
    def workspace(self) -> Generator[Path]:
        """Make a directory that is removed with the block unless `place` takes it."""
        with workspace(self.directory, 0o700) as work:
            made = work / "template"
            made.mkdir(mode=0o700)
            yield made

    def place(self, key: TemplateKey, work: Path) -> None:
        """Make the directory of a workspace the template for that key. Raises OSError.

        An existing template that can be read stays: templates for one key are alike.
        """
        self._verified.seal(work, key.parts)
        target = self.directory / key.id
        try:
            place(work, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if _read(target) is None:  # written by another version of waggle
                shutil.rmtree(target, ignore_errors=True)
                place(work, target)

    def remove(self, template_id: str) -> bool:
        """Remove a template and return whether it existed; machines made from it keep running."""
        path = self.directory / template_id
        if not (path / MANIFEST).exists():
            return False
        (path / MANIFEST).unlink(missing_ok=True)  # the directory now counts as incomplete
        shutil.rmtree(path, ignore_errors=True)
        return True

    def trim(self, per_owner: int, total: int) -> None:
        """Of templates with an owner, keep the last used: `per_owner` of one, `total` of all."""
        kept = Counter[str]()
        for template in self.all():
            owner = template.key.parts.get("owner")
            if owner is None:
                continue
            if kept[owner] >= per_owner or kept.total() >= total:
                self.remove(template.key.id)
            else:
                kept[owner] += 1

    def sweep(self) -> None:
        """Remove workspaces that no process holds, and directories without a manifest."""
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
