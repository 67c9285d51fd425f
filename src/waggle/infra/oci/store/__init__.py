# SPDX-License-Identifier: Apache-2.0
"""The local image store, and images in a user's own OCI layout.

Called by the services and by `waggle image ls|inspect|rm`. All local images share one layout
directory, so common blobs exist once. Resolving verifies manifest and configuration; layers are
verified when they are unpacked. The time of a manifest's file records its last use, which copies
and backups keep; `Queries` records when a registry was last queried, in files that other tools
ignore. No network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.domain.reference import canonical_name
from waggle.infra.archive import algorithm_of
from waggle.infra.oci.store.image import Descriptor, ResolvedImage
from waggle.infra.oci.store.layout import Layout, reachable
from waggle.infra.oci.store.select import (
    Form,
    LocalSource,
    by_tag,
    for_platform,
    host_platform,
    parse_source,
    select,
)


@dataclass(frozen=True, slots=True)
class Holding:
    """The blobs that a name keeps, sizes by digest. `digest` is the manifest's; it keys disks."""

    name: str
    digest: str
    blobs: Mapping[str, int]
    used: float
    """Seconds since the epoch."""


def manifest_digest(layout: Layout, entry: Descriptor, platform: str) -> str:
    """Return the digest of the platform's manifest, or the entry's own when that is damaged."""
    try:
        return for_platform(layout, entry, platform).digest
    except ImageCorrupt:
        return entry.digest


def _path(layout: Layout, hex_: str) -> Path:
    return layout.path / "blobs" / algorithm_of(hex_) / hex_


def _status(layout: Layout, hex_: str) -> os.stat_result | None:
    try:
        return _path(layout, hex_).stat()
    except OSError:
        return None


_NAME = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+]|--|/)[A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One line of `waggle image ls`. `problem` says why it cannot be used, else it is empty."""

    name: str
    digest: str
    size: int
    created: str = ""
    problem: str = ""
    used: float = 0.0
    """When it was brought or last used for an environment; seconds since the epoch."""


class ImageStore:
    """Images by name in the layout at `directory`; safe for any number of processes."""

    def __init__(
        self,
        directory: Path,
        *,
        builtin: frozenset[str] = frozenset(("base", "python", "node", "shell", "data")),
        platform: str | None = None,
    ) -> None:
        """`builtin` names the images that `waggle image build` can make, for hints."""
        self.layout = Layout(directory)
        self._builtin = builtin
        self.platform = platform or host_platform()

    def resolve(self, reference: str) -> ResolvedImage:
        """Find an image by name, or in another layout by `/path[:tag]` or `oci:/path[:tag]`.

        A name is used unchanged, else in its canonical form. Reads a few small files; idempotent.
        Raises ImageMissing (the hint is the command that makes it), ImageCorrupt and
        InvalidArgument.
        """
        source = parse_source(reference)
        if source:
            return self._resolve_source(reference, source)
        name, found = self.find(reference)
        return self._load(name, self.layout, found, self._remedy(name))

    def find(self, reference: str) -> tuple[str, Descriptor]:
        """Return the store's name for an image and its entry in the index.

        Raises ImageMissing, InvalidArgument and ImageCorrupt.
        """
        check_name(reference)
        names = self.layout.names() if self.layout.exists else {}
        for name in (reference, canonical_name(reference)):
            if name and name in names:
                return name, names[name]
        raise ImageMissing(
            f"There is no image '{reference}' on this machine.", hint=self._how(reference)
        )

    def _how(self, name: str) -> str:
        if name in self._builtin:
            return f"Run 'waggle image build {name}'."
        return "See 'waggle image ls'; 'waggle image pull' or 'waggle image load' bring an image."

    def _remedy(self, name: str) -> str:
        if name in self._builtin:
            return f"Run 'waggle image build {name}' to make it again."
        return f"Remove it with 'waggle image rm {name}' and bring it again."

    def _resolve_source(self, reference: str, source: LocalSource) -> ResolvedImage:
        if source.form is not Form.LAYOUT:
            raise ImageMissing(
                f"{reference} is no layout.", hint=f"Run 'waggle image load {reference}' first."
            )
        layout = Layout(source.path)
        if not layout.exists:
            raise ImageMissing(
                f"{layout.path} is not an OCI image layout.",
                hint="Make one with 'skopeo copy docker://IMAGE oci:DIRECTORY:TAG'.",
            )
        found = by_tag(layout, source.name, str(layout.path), self.platform)
        return self._load(reference, layout, found, f"Copy the image to {layout.path} again.")

    def _load(
        self, reference: str, layout: Layout, found: Descriptor, remedy: str
    ) -> ResolvedImage:
        image = select(layout, found, self.platform, f"Image {reference}", remedy)
        return ResolvedImage(
            reference, image.digest, image.parsed, image.layers, layout.path, remedy
        )

    def list(self) -> list[StoredImage]:
        """List the store's images by name; a damaged one is listed with its problem."""
        if not self.layout.exists:
            return []
        listed: list[StoredImage] = []
        for name, descriptor in sorted(self.layout.names().items()):
            digest = manifest_digest(self.layout, descriptor, self.platform)
            used = self.last_used(digest)
            try:
                image = self._load(name, self.layout, descriptor, "")
            except (ImageCorrupt, ImageMissing) as error:
                problem = error.message
                listed.append(StoredImage(name, descriptor.digest, 0, problem=problem, used=used))
            else:
                created = image.config.created
                listed.append(StoredImage(name, image.digest, image.size, created, used=used))
        return listed

    def holdings(self) -> list[Holding]:
        """Return what every name keeps, damaged images too. Raises ImageCorrupt for the index."""
        held: list[Holding] = []
        for name, entry in sorted(self.layout.names().items() if self.layout.exists else ()):
            sizes = {
                f"{algorithm_of(hex_)}:{hex_}": status.st_size
                for hex_ in reachable(entry, self.layout.read_document)
                if (status := _status(self.layout, hex_))
            }
            digest = manifest_digest(self.layout, entry, self.platform)
            held.append(Holding(name, digest, sizes, self.last_used(digest)))
        return held

    def last_used(self, digest: str) -> float:
        """Return when the image with that manifest was last used, in epoch seconds, or 0."""
        status = _status(self.layout, digest.partition(":")[2])
        return status.st_mtime if status else 0.0

    def note_use(self, image: ResolvedImage) -> None:
        """Note that an environment is made from an image of this store.

        Never fails: another user may own the store.
        """
        if image.layout == self.layout.path:
            with contextlib.suppress(OSError):
                os.utime(_path(self.layout, image.digest.partition(":")[2]))

    def remove(self, name: str, in_use: Callable[[str], bool]) -> int:
        """Remove a name and the blobs only it used; return the bytes freed.

        `in_use(digest)` returns whether a running environment was booted from that manifest; if so,
        raises InvalidArgument. A damaged image can be removed. Raises ImageMissing.
        """
        self.find(name)
        with self.layout.locked():
            name, found = self.find(name)
            if in_use(manifest_digest(self.layout, found, self.platform)):
                raise InvalidArgument(
                    f"Image '{name}' is in use by a running environment.",
                    hint="Destroy that environment first ('waggle env ls').",
                )
            self.layout.untag(name)
            return self.layout.collect()

    def drop_damaged(self, image: ResolvedImage) -> bool:
        """Remove layers of an image here that lost their digest; return whether there were any.

        Bringing the image again fetches what is missing, which also repairs images that share the
        layers. Reads all layers. Raises TimedOut when the store is locked for too long.
        """
        if image.layout != self.layout.path:
            return False
        paths = [self.layout.blob_path(layer) for layer in image.layers]
        damaged = [(path, found) for path in paths if (found := _damaged(path))]
        with self.layout.locked():
            for path, found in damaged:
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_ino == found:  # not replaced meanwhile
                        path.unlink()
        return bool(damaged)

    def collect(self) -> int:
        """Remove blobs that no image reaches and leftovers of killed builds; return bytes freed."""
        if not self.layout.exists:
            return 0
        with self.layout.locked():
            return self.layout.collect()


def _damaged(blob: Path) -> int | None:
    """Return the inode of a blob that does not have the digest in its name."""
    with contextlib.suppress(FileNotFoundError), blob.open("rb") as file:
        if hashlib.file_digest(file, blob.parent.name).hexdigest() != blob.name:
            return os.fstat(file.fileno()).st_ino
    return None


def check_name(name: str) -> None:
    """Raise InvalidArgument for a name that an OCI layout could not hold."""
    if (len(name) > 255 or not _NAME.fullmatch(name)) and not canonical_name(name):
        raise InvalidArgument(f"{name[:80]!a} is not an image name.")


class Queries:
    """Records when a registry was last queried for a name; safe for several processes."""

    def __init__(self, layout: Path) -> None:
        self._directory = layout / ".asked"

    def path(self, name: str) -> Path:
        """Return the file of a name and make its directory; a lock may be placed beside it."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return self._directory / hashlib.sha256(name.encode()).hexdigest()

    def when(self, name: str) -> float | None:
        """Return seconds since the epoch, or None if there was no query yet."""
        with contextlib.suppress(OSError):
            return self.path(name).stat().st_mtime
        return None

    def note(self, name: str, now: float) -> None:
        """Note a query at `now`, in seconds since the epoch. Raises OSError."""
        path = self.path(name)
        path.touch(mode=0o644)
        os.utime(path, (now, now))
