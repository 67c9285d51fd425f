# SPDX-License-Identifier: Apache-2.0
"""An OCI image layout directory: blobs by digest and an index of names.

`store` keeps all local images in one layout; the same code reads a user's own layout. Writers hold
the layout's lock and every file appears by an atomic rename, so readers need no lock and a killed
writer leaves only temporary files, which `collect` removes together with blobs that belong to no
image. Documents are checked against size and digest when read; the readers of other blobs check the
digest. Knows nothing of registries or disks.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.infra.archive import digest_of, has_digest
from waggle.infra.oci.store.image import (
    MAX_DOCUMENT,
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    REF_NAME,
    Descriptor,
    load_json,
    parse_descriptor,
    parse_descriptors,
    parse_manifest,
)
from waggle.infra.shared.files import FileLock, atomic_write
from waggle.infra.shared.work import place, sweep, workspace

_DEPTH = 4


def reachable(entry: Descriptor, read: Callable[[Descriptor], bytes]) -> set[str]:
    """Return the names (hex digests) of all blobs below an index entry, its own included.

    `read` returns a verified document. If it raises ImageCorrupt for one, that one counts, but
    nothing below it.
    """
    found: set[str] = set()
    _follow(entry, read, found, depth=0)
    return found


def _follow(
    descriptor: Descriptor, read: Callable[[Descriptor], bytes], found: set[str], depth: int
) -> None:
    if descriptor.hex in found or depth > _DEPTH:
        return
    found.add(descriptor.hex)
    if not descriptor.media_type.endswith("+json"):
        return
    with contextlib.suppress(ImageCorrupt):
        data = read(descriptor)
        document = load_json(data, "document")
        if "manifests" in document:
            children = parse_descriptors(document, "manifests", "index")
        elif "config" in document:
            config, children = parse_manifest(data)
            found.add(config.hex)
        else:
            return
        for child in children:
            _follow(child, read, found, depth + 1)


LAYOUT_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_LOCK_SECONDS = 120.0


def canonical(document: object) -> bytes:
    """Serialise JSON the same way every time: sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def manifest_of(config: Descriptor, layers: Iterable[Descriptor]) -> bytes:
    """Write an OCI manifest; the configuration gets OCI's media type."""

    def described(media_type: str, blob: Descriptor) -> dict[str, object]:
        return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": described(MEDIA_CONFIG, config),
            "layers": [described(layer.media_type, layer) for layer in layers],
        }
    )


class Layout:
    """One layout directory. Reading needs no lock; the module describes the rules for writing."""

    kind = "an OCI image layout"
    """For messages."""

    def __init__(self, path: Path) -> None:
        """Describe the layout at `path`; touches nothing until it is used."""
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether the directory is marked as an OCI layout."""
        return (self.path / "oci-layout").is_file()

    def create(self) -> None:
        """Make an empty layout. Idempotent; an existing one stays unchanged."""
        (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if not self.exists:
            atomic_write(self.path / "oci-layout", LAYOUT_MARKER)

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Exclude other writers of this layout, also in other processes. Raises TimedOut."""
        self.create()
        with FileLock(self.path / ".lock", timeout=_LOCK_SECONDS):
            yield

    # Names

    def index(self) -> tuple[Descriptor, ...]:
        """Return the entries of index.json, in order. Raises ImageMissing, ImageCorrupt."""
        if not self.exists:
            raise ImageMissing(f"{self.path} is not an OCI image layout.")
        what = f"{self.path}/index.json"
        try:
            status = (self.path / "index.json").stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_DOCUMENT:
                raise ImageCorrupt(f"{what} is not a file, or is too large.")
            data = (self.path / "index.json").read_bytes()
        except FileNotFoundError:
            return ()
        return parse_descriptors(load_json(data, what), "manifests", what)

    def names(self) -> dict[str, Descriptor]:
        """Return the named entries; of several with one name, the last counts."""
        return {d.annotations[REF_NAME]: d for d in self.index() if REF_NAME in d.annotations}

    def tag(self, name: str, digest: str, size: int, media_type: str = MEDIA_MANIFEST) -> None:
        """Give a manifest a name, taking it from another one. The caller holds the lock."""
        entry = {
            "mediaType": media_type,
            "digest": digest,
            "size": size,
            "annotations": {REF_NAME: name},
        }
        self._write_index([*self._raw_entries(without=name), entry])

    def untag(self, name: str) -> None:
        """Remove a name; its blobs stay until `collect`. The caller holds the lock."""
        self._write_index(self._raw_entries(without=name))

    def _raw_entries(self, without: str) -> list[object]:
        path = self.path / "index.json"
        if not path.exists():
            return []
        manifests = load_json(path.read_bytes(), str(path)).get("manifests")
        entries: list[object] = [*manifests] if isinstance(manifests, list) else []
        what = str(path)
        return [
            e for e in entries if parse_descriptor(e, what).annotations.get(REF_NAME) != without
        ]

    def _write_index(self, entries: Iterable[object]) -> None:
        document = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": list(entries)}
        atomic_write(self.path / "index.json", canonical(document))

    # Blobs

    def blob_path(self, descriptor: Descriptor) -> Path:
        """Return the path of the blob, whether or not it exists."""
        return self.path / "blobs" / descriptor.algorithm / descriptor.hex

    def open_blob(self, descriptor: Descriptor, remedy: str = "") -> BinaryIO:
        """Open a blob whose size is right; the reader checks the digest. Raises ImageCorrupt."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # do not block on a pipe in its place
        try:
            file = os.fdopen(os.open(self.blob_path(descriptor), flags), "rb")
        except OSError as error:
            reason = error.strerror or "unreadable"
            message = f"Blob {descriptor.digest} of the image cannot be read: {reason}."
            raise ImageCorrupt(message, hint=remedy) from error
        actual = os.fstat(file.fileno()).st_size
        if actual == descriptor.size:
            return file
        file.close()
        raise ImageCorrupt(
            f"Blob {descriptor.digest} has {actual} bytes; its descriptor says {descriptor.size}.",
            hint=remedy,
        )

    def read_document(self, descriptor: Descriptor, remedy: str = "") -> bytes:
        """Read and verify a small blob: a manifest, an index, a configuration."""
        if descriptor.size > MAX_DOCUMENT:
            message = f"Blob {descriptor.digest} is over {MAX_DOCUMENT} bytes for a document."
            raise ImageCorrupt(message, hint=remedy)
        with self.open_blob(descriptor, remedy) as file:
            data = file.read(descriptor.size)
        if not has_digest(data, descriptor.digest):
            message = f"Blob {descriptor.digest} does not have that digest."
            raise ImageCorrupt(message, hint=remedy)
        return data

    def put_bytes(self, data: bytes, algorithm: str = "sha256") -> tuple[str, int]:
        """Store a small blob; return its digest and size. Idempotent; repairs a damaged one."""
        digest = digest_of(data, algorithm)
        atomic_write(self._place(digest), data)
        return digest, len(data)

    def _place(self, digest: str) -> Path:
        algorithm, _, hex_ = digest.partition(":")
        directory = self.path / "blobs" / algorithm
        directory.mkdir(exist_ok=True)
        return directory / hex_

    def put_file(self, source: Path, digest: str) -> None:
        """Move a finished file to its place. Same filesystem; the caller computed `digest`."""
        target = self._place(digest)
        source.chmod(0o644)
        place(source, target)

    @contextlib.contextmanager
    def workspace(self) -> Generator[Path]:
        """Give a private directory on the layout's filesystem; it is removed afterwards."""
        self.create()
        with workspace(self.path) as path:
            yield path

    def collect(self) -> int:
        """Remove blobs that no name reaches and leftovers of killed writers; return bytes freed.

        The caller holds the lock. A workspace in use stays: its own lock marks it. An unreadable
        manifest keeps its own blob and frees the rest of its image.
        """
        reached = {hex_ for entry in self.index() for hex_ in reachable(entry, self.read_document)}
        freed = 0
        for blob in (self.path / "blobs").glob("sha*/*"):
            if blob.name not in reached:
                freed += blob.stat().st_size
                blob.unlink(missing_ok=True)
        sweep(self.path)
        return freed
