# SPDX-License-Identifier: Apache-2.0
"""The directory of a frozen machine (memory, devices, two disks, manifest), and the template store.

Used by `service.local.frozen` for templates, snapshots and environments that are paused to disk.
The manifest is written last, so a directory with a manifest is complete; it has checksums of the
files, and facts for its writer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import structlog

from waggle.domain.errors import FrozenMachineUnusable
from waggle.domain.machine import IDENTITY, RAM, SCRATCH, STATE
from waggle.domain.snapshot import Template, TemplateKey
from waggle.infra.shared.files import atomic_write
from waggle.infra.shared.work import place, sweep, workspace
from waggle.infra.store.checksums import KINDS, Sums, block_sums, digest, sums_after

MANIFEST = "manifest.json"
FILES = (RAM, STATE, SCRATCH, IDENTITY)
_FORMAT = max(KINDS)
_MOST_STAMPS = 4096
_MOST_SUMS = 64
"""Memories whose sums are known. Others are read whole again."""
_ODD = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


def seal(directory: Path, facts: Mapping[str, object]) -> None:
    """Write the manifest, which completes a directory. Blocks to read the files. Raises OSError."""
    _seal(directory, facts, block_sums(directory / RAM))


def _seal(directory: Path, facts: Mapping[str, object], memory: Sums) -> None:
    kind, checksum = KINDS[_FORMAT]
    sums = {name: checksum(directory / name) for name in FILES if name != RAM}
    sums[RAM] = digest((directory / RAM).stat().st_size, memory)
    manifest = {"format": _FORMAT, "facts": facts, kind: sums}
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
        manifest = _manifest(directory)
        kind, checksum = _kind(manifest)
        sums = _table(manifest, kind)
    except FileNotFoundError:
        return "it is incomplete"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} is corrupt: {error}"
    for name in FILES:
        try:
            if checksum(directory / name) != sums.get(name):
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
        self._sums: dict[tuple[int, int], Sums] = {}
        """Of memory that will change in place, by device and inode, the last at the end."""
        self._lock = threading.Lock()

    def seal(
        self,
        directory: Path,
        facts: Mapping[str, object],
        changed: Sequence[tuple[int, int]] | None = None,
        *,
        will_change: bool = False,
    ) -> None:
        """See `seal`. `changed` are the ranges of the memory that were written since the last time.

        None if it is a new file. Of one that `will_change` in place, the sums are kept.
        """
        memory = directory / RAM
        about = memory.stat()
        with self._lock:
            before = self._sums.pop((about.st_dev, about.st_ino), None)
        if before is None or changed is None:
            sums = block_sums(memory)
        else:
            sums = sums_after(memory, before, changed)
        if will_change:
            with self._lock:
                self._sums[about.st_dev, about.st_ino] = sums
                while len(self._sums) > _MOST_SUMS:
                    del self._sums[next(iter(self._sums))]
        _seal(directory, facts, sums)
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


def _stamp(directory: Path) -> tuple[tuple[int, int, int, int], ...]:
    """Return a value that changes when a file is written or replaced. Raises OSError."""
    looks = ((directory / name).stat() for name in (*FILES, MANIFEST))
    return tuple((at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns) for at in looks)


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
    _kind(fields)
    return fields


def _kind(manifest: Mapping[str, object]) -> tuple[str, Callable[[Path], str]]:
    """Return the checksums that a manifest has. Raises ValueError for a foreign format."""
    written = manifest.get("format")
    if type(written) is not int or written not in KINDS:
        raise ValueError("it has another format")
    return KINDS[written]


def _table(manifest: dict[str, object], name: str) -> dict[str, object]:
    table = manifest.get(name)
    if not isinstance(table, dict):
        raise ValueError(f"it has no {name}")
    return cast("dict[str, object]", table)


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
