# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted image archives and image directories as layouts, and copies verified blobs.

Called by `load` and `export`; blocks the thread. Files of an archive (plain, gzip, zstd, xz or
bzip2) are unpacked under numbers and hashed on the way; a table maps the archive's names, which
never become paths, to them and resolves links. All of it is bounded. `docker_archive` reads the
same table. `BlobDirectory` reads what skopeo's `dir:` and `podman save --format docker-dir` write.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.infra.archive import ALGORITHMS, Limits, clean_path, digest_of, new_hash, shown
from waggle.infra.archive import Path as Name
from waggle.infra.archive.decode import BoundedStream, CountedFile
from waggle.infra.archive.tar import Entry, TarReader
from waggle.infra.oci.store.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    Descriptor,
    load_json,
)
from waggle.infra.oci.store.layout import Layout

MAX_FILES = 20_000
"""Files that one archive may hold: enough for dozens of images of many layers."""
_BUFFER = 1 << 20
_HOPS = 8
_BLOB = re.compile(rb"blobs/(sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})")
_DOCUMENTS: tuple[Name, ...] = ((b"oci-layout",), (b"index.json",))


@dataclass(frozen=True, slots=True)
class Unpacked:
    """One file of an archive: its present path and its digest.

    The digest is the sha256, except for a blob that is named by its sha512.
    """

    path: Path
    hex: str
    size: int


@dataclass(slots=True)
class Contents:
    """The files and links of an archive, by name; of entries with one name, the last counts."""

    files: dict[Name, Unpacked] = field(default_factory=dict[Name, Unpacked])
    links: dict[Name, Name] = field(default_factory=dict[Name, Name])

    def find(self, name: str) -> Unpacked:
        """Return the file with that name, following links. Raises ImageCorrupt."""
        parts = (part for part in name.split("/") if part not in {"", "."})
        wanted = tuple(part.encode("utf-8", "surrogateescape") for part in parts)
        at = wanted
        for _ in range(_HOPS):
            if at in self.files:
                return self.files[at]
            if at not in self.links:
                break
            at = self.links[at]
        raise ImageCorrupt(f"It has no file {shown(wanted)}.")


@contextlib.contextmanager
def opened(path: Path) -> Generator[BinaryIO]:
    """Open an archive for reading. Raises ImageMissing when it is no file or cannot be read."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # do not block on a pipe in its place
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "unreadable"
        raise ImageMissing(f"{path} cannot be read: {reason}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageMissing(
            f"{path} is not a file.", hint="Name an OCI layout directory as oci:/path:tag."
        )
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file


def unpack(
    file: BinaryIO,
    directory: Path,
    limits: Limits,
    advance: Callable[[int], None],
    *,
    only_layout: bool = False,
) -> Contents:
    """Read a whole archive; keep its regular files, perhaps only an OCI layout's, in `directory`.

    `advance` gets the stored bytes as they are read and may raise to stop. `directory` is the
    caller's to remove. Devices, pipes and directories are skipped. Raises ImageCorrupt.
    """
    stream = io.BufferedReader(BoundedStream(CountedFile(file, advance), limits, "It"), _BUFFER)
    reader = TarReader(stream, limits)
    contents = Contents()
    number = 0
    for entry in reader:
        name = entry.path
        if stat.S_ISDIR(entry.mode) or (only_layout and not is_layout_name(name)):
            continue
        number += 1
        if number > MAX_FILES:
            raise ImageCorrupt(f"It has more than {MAX_FILES} files.")
        if replaced := contents.files.pop(name, None):
            replaced.path.unlink()
        contents.links.pop(name, None)
        if stat.S_ISREG(entry.mode):
            contents.files[name] = _keep(reader, entry, directory / str(number))
        elif target := _target(entry, limits):
            contents.links[name] = target
    while stream.read(_BUFFER):
        pass  # compressed data has its checksum at the end
    return contents


def _keep(reader: TarReader, entry: Entry, path: Path) -> Unpacked:
    digest = new_hash("sha512" if entry.path[:2] == (b"blobs", b"sha512") else "sha256")
    size = 0
    with path.open("xb") as out:
        for offset, data in reader.content():
            if offset != size:
                raise ImageCorrupt(f"{shown(entry.path)} is a sparse file.")
            digest.update(data)
            out.write(data)
            size += len(data)
        if size != entry.size:
            raise ImageCorrupt(f"{shown(entry.path)} is a sparse file.")
        out.flush()
        os.fsync(out.fileno())  # not under the store's lock, where others would wait
    return Unpacked(path, digest.hexdigest(), size)


def _target(entry: Entry, limits: Limits) -> Name | None:
    """Return the name that a link points to; None for no link or one out of the archive."""
    if entry.is_hard_link:
        return clean_path(entry.link, limits)
    if not stat.S_ISLNK(entry.mode) or entry.link.startswith(b"/"):
        return None
    parts = [*entry.path[:-1]]
    for part in entry.link.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in {b"", b"."}:
            parts.append(part)
    return tuple(parts)


def is_layout_name(name: Name) -> bool:
    """Return whether an OCI layout may have a file with this name."""
    return name in _DOCUMENTS or bool(_BLOB.fullmatch(b"/".join(name)))


def as_layout(contents: Contents, directory: Path) -> Layout:
    """Arrange the files of an OCI archive as a layout in `directory`. Raises ImageCorrupt."""
    for name in _DOCUMENTS:
        if name not in contents.files:
            raise ImageCorrupt(f"It is not an OCI archive: it has no file {shown(name)}.")
    if contents.links:
        raise ImageCorrupt(f"{shown(min(contents.links))} is a link; OCI archives have none.")
    layout = Layout(directory)
    for algorithm in ALGORITHMS:
        (directory / "blobs" / algorithm).mkdir(parents=True)
    for name, file in contents.files.items():
        if name not in _DOCUMENTS and name[-1].decode() != file.hex:
            raise ImageCorrupt(f"Blob {name[-1].decode()} does not have that digest.")
        file.path.rename(directory.joinpath(*(part.decode() for part in name)))
    return layout


_MANIFEST = "manifest.json"


class BlobDirectory(Layout):
    """A directory with one image, read-only, as a layout with one entry without a name.

    `manifest.json` is beside files named by their digests; if it is an index, it lists further
    manifests, stored as `HEX.manifest.json`.
    """

    kind = "a directory of an image, with a manifest.json"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._manifest = ""

    @property
    def exists(self) -> bool:
        """Whether it has a manifest."""
        return (self.path / _MANIFEST).is_file()

    def index(self) -> tuple[Descriptor, ...]:
        """Return the one image, or index. Raises ImageMissing, ImageCorrupt and OSError."""
        what = f"{self.path}/{_MANIFEST}"
        if not self.exists:
            raise ImageMissing(f"{self.path} is not {self.kind}.")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(self.path / _MANIFEST, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_DOCUMENT:
                raise ImageCorrupt(f"{what} is not a file, or is too large.")
            data = file.read(MAX_DOCUMENT)
        document = load_json(data, what)
        media = document.get("mediaType")
        if media not in MANIFEST_TYPES | INDEX_TYPES:
            media = DOCKER_INDEX if "manifests" in document else DOCKER_MANIFEST
        self._manifest = digest_of(data)
        return (Descriptor(str(media), self._manifest, len(data)),)

    def blob_path(self, descriptor: Descriptor) -> Path:
        """Return the path of the blob, whether or not it exists."""
        if descriptor.digest == self._manifest:
            return self.path / _MANIFEST
        names = (descriptor.hex, f"{descriptor.algorithm}-{descriptor.hex}")
        places = [self.path / name for name in (*names, f"{descriptor.hex}.{_MANIFEST}")]
        return next((place for place in places if place.is_file()), places[0])


PIECE = 1 << 20
Count = Callable[[int], None]
"""Gets the size of every piece; may raise to stop."""


def pieces(layout: Layout, blob: Descriptor, count: Count) -> Iterator[bytes]:
    """Yield a blob in pieces and check its digest: none of it counts before the end.

    Raises ImageMissing or ImageCorrupt.
    """
    digest = new_hash(blob.digest)
    with layout.open_blob(blob) as file:
        while data := file.read(PIECE):
            digest.update(data)
            count(len(data))
            yield data
    if digest.hexdigest() != blob.hex:
        raise ImageCorrupt(
            f"Blob {blob.digest} does not have that digest.", hint="Bring the image again."
        )


def copy(layout: Layout, blob: Descriptor, directory: Path, count: Count) -> Path:
    """Copy a blob into `directory`, on disk when this returns. Raises as `pieces` does."""
    target = directory / blob.hex
    with target.open("wb") as out:
        out.writelines(pieces(layout, blob, count))
        out.flush()
        os.fsync(out.fileno())
    return target
