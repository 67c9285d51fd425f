# SPDX-License-Identifier: Apache-2.0
"""Templates on the disk: one directory each, with a manifest that is written last.

A directory with a manifest is whole: it was made under another name and renamed. What a killed
server left of others is removed by `sweep`. Safe for several processes, which share the cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from waggle.domain.snapshot import Template, TemplateKey
from waggle.infra.shared.files import FileLock, sync_directory
from waggle.infra.store.frozen_files import MANIFEST, facts, problem, seal, size

log = structlog.get_logger(__name__)
_PREFIX = ".tmp-"


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
        """A new directory, which is locked and goes with the block unless `place` took it."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.directory))
        try:
            with FileLock(path.with_suffix(".lock"), timeout=0):
                try:
                    yield path
                finally:
                    shutil.rmtree(path, ignore_errors=True)
        finally:
            path.with_suffix(".lock").unlink(missing_ok=True)

    def place(self, key: TemplateKey, work: Path) -> None:
        """Make what is in a workspace the template for that key. Raises OSError.

        Whoever was faster keeps the place, templates for one key being alike, unless what is there
        cannot be read.
        """
        seal(work, key.parts)
        place = self.directory / key.id
        try:
            work.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if _read(place) is None:  # of another version of waggle
                shutil.rmtree(place, ignore_errors=True)
                work.rename(place)
        sync_directory(self.directory)

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
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if not path.is_dir():
                continue
            if path.name.startswith(_PREFIX):
                lock = FileLock(path.with_suffix(".lock"))
                if not lock.try_acquire():
                    continue
                shutil.rmtree(path, ignore_errors=True)
                lock.release()
                path.with_suffix(".lock").unlink(missing_ok=True)
            elif not (path / MANIFEST).exists():
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
