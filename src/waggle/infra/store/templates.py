# SPDX-License-Identifier: Apache-2.0
"""Templates on the disk: one directory each, with a manifest that is written last.

A directory with a manifest is whole: it was made under another name and renamed. What a killed
server left of others is removed by `sweep`. Safe for several processes, which share the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import structlog

from waggle.domain.template import Template, TemplateKey
from waggle.infra.files import FileLock, atomic_write, sync_directory

log = structlog.get_logger(__name__)
_MANIFEST = "manifest.json"
_PREFIX = ".tmp-"
_FORMAT = 1
_BLOCK = 1 << 16
_CHECKED = ("ram", "state", "scratch.img", "identity.img")


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
            if (problem := _problem(path)) is not None:
                log.warning("template_removed", template=key.id, problem=problem)
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

        Whoever was faster keeps the place: templates for one key are alike.
        """
        files = {name: _sha256(work / name) for name in _CHECKED}
        manifest = {"format": _FORMAT, "key": dict(key.parts), "sha256": files}
        atomic_write(work / _MANIFEST, json.dumps(manifest, indent=1).encode(), 0o600)
        with contextlib.suppress(FileExistsError, OSError):
            work.rename(self.directory / key.id)
        sync_directory(self.directory)

    def remove(self, template_id: str) -> bool:
        """Remove a template; machines that came of it go on. Says whether there was one."""
        path = self.directory / template_id
        self._verified.pop(path, None)
        if not (path / _MANIFEST).exists():
            return False
        (path / _MANIFEST).unlink(missing_ok=True)  # from here on it does not count
        shutil.rmtree(path, ignore_errors=True)
        return True

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
            elif not (path / _MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> Template | None:
    try:
        about = path.stat()
        key, _ = _manifest(path)
        made = (path / _MANIFEST).stat()
        size = sum(each.stat().st_blocks * 512 for each in path.iterdir())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Template(
        key=key,
        directory=path,
        created_at=datetime.fromtimestamp(made.st_mtime, UTC),
        used_at=datetime.fromtimestamp(about.st_mtime, UTC),
        size=size,
    )


def _manifest(path: Path) -> tuple[TemplateKey, Mapping[str, str]]:
    """The key and the digests of the files. Raises ValueError, TypeError or KeyError."""
    manifest = json.loads((path / _MANIFEST).read_bytes())
    if manifest["format"] != _FORMAT:
        raise ValueError("another format")
    return TemplateKey(_texts(manifest["key"])), _texts(manifest["sha256"])


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return {str(name): str(text) for name, text in cast("dict[object, object]", value).items()}


def _problem(path: Path) -> str | None:
    """What is wrong with a template's files, if anything."""
    _, digests = _manifest(path)
    for name in _CHECKED:
        try:
            if _sha256(path / name) != digests[name]:
                return f"{name} is corrupt"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def _sha256(path: Path) -> str:
    """The digest of a sparse file's size and its blocks that are not zero, wherever holes are."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "big"))
        for at in _blocks(file.fileno(), size):
            block = os.pread(file.fileno(), _BLOCK, at)
            if block.strip(b"\0"):
                digest.update(at.to_bytes(8, "big") + block)
    return digest.hexdigest()


def _blocks(descriptor: int, size: int) -> Generator[int]:
    """The offsets of all blocks that may hold data, in order."""
    at = 0
    while at < size:
        try:
            at = max(at, os.lseek(descriptor, at, os.SEEK_DATA) // _BLOCK * _BLOCK)
        except OSError:  # no data behind this offset
            return
        yield at
        at += _BLOCK
