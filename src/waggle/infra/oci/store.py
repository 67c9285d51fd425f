# SPDX-License-Identifier: Apache-2.0
"""The local image store, and images in a user's own OCI layout.

Called by the environment host and by `waggle image ls|inspect|rm`. All local images share one
layout directory, so common blobs exist once. Resolving reads and verifies manifest and
configuration; layers are verified when they are unpacked. No network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.infra.oci.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    ResolvedImage,
    load_json,
    parse_config,
    parse_descriptors,
    parse_manifest,
)
from waggle.infra.oci.layout import Layout

_NAME = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+]|--|/)[A-Za-z0-9]+)*")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFESTS = {MEDIA_MANIFEST, DOCKER_MANIFEST}
_INDEXES = {MEDIA_INDEX, DOCKER_INDEX}


def host_platform() -> str:
    """Return this machine's platform as OCI spells it, such as `linux/amd64`."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One line of `waggle image ls`. `problem` says why it cannot be used, else it is empty."""

    name: str
    digest: str
    size: int
    created: str = ""
    problem: str = ""


class ImageStore:
    """Images by name in the layout at `directory`; safe for any number of processes."""

    def __init__(
        self,
        directory: Path,
        *,
        builtin: frozenset[str] = frozenset(("python", "node", "shell")),
        platform: str | None = None,
    ) -> None:
        """`builtin` names what `waggle image build` can make: hints say so."""
        self.layout = Layout(directory)
        self._builtin = builtin
        self._platform = platform or host_platform()

    def resolve(self, reference: str) -> ResolvedImage:
        """Find an image by name, or in another layout by `/path[:tag]` or `oci:/path[:tag]`.

        Raises ImageMissing (the hint is the command that makes it), ImageCorrupt and
        InvalidArgument. Reads a few small files; idempotent.
        """
        located = _split_path(reference)
        if located:
            path, tag = located
            remedy = f"Copy the image to {path} again."
            return self._resolve_path(reference, Layout(path), tag, remedy)
        check_name(reference)
        found = self.layout.names().get(reference) if self.layout.exists else None
        if found is None:
            raise ImageMissing(
                f"There is no image '{reference}' on this machine.", hint=self._how(reference)
            )
        return self._load(reference, self.layout, found, self._remedy(reference))

    def _how(self, name: str) -> str:
        if name in self._builtin:
            return f"Run 'waggle image build {name}'."
        return "See 'waggle image ls', or name an OCI layout as /path:tag."

    def _remedy(self, name: str) -> str:
        if name in self._builtin:
            return f"Run 'waggle image build {name}' to make it again."
        return f"Remove it with 'waggle image rm {name}' and bring it again."

    def _resolve_path(self, reference: str, layout: Layout, tag: str, remedy: str) -> ResolvedImage:
        if not layout.exists:
            raise ImageMissing(
                f"{layout.path} is not an OCI image layout.",
                hint="Make one with 'skopeo copy docker://IMAGE oci:DIRECTORY:TAG'.",
            )
        if tag:
            found = layout.names().get(tag)
        else:
            entries = layout.index()
            found = entries[0] if len(entries) == 1 else None
        if found is None:
            names = ", ".join(sorted(layout.names())) or "none"
            what = f"an image '{tag}'" if tag else "exactly one image"
            raise ImageMissing(
                f"{layout.path} does not hold {what}.", hint=f"Its names are: {names}."
            )
        return self._load(reference, layout, found, remedy)

    def _load(
        self, reference: str, layout: Layout, found: Descriptor, remedy: str
    ) -> ResolvedImage:
        try:
            manifest = self._manifest(layout, found, remedy)
            config, layers = parse_manifest(layout.read_document(manifest, remedy))
            parsed = parse_config(layout.read_document(config, remedy))
        except ImageCorrupt as error:
            message = f"Image {reference}: {error.message}"
            raise ImageCorrupt(message, hint=error.hint or remedy) from error
        platform = f"{parsed.os}/{parsed.architecture}"
        if platform != self._platform:
            raise ImageMissing(
                f"Image {reference} is for {platform}; this machine runs {self._platform}.",
                hint="Bring the image for this machine's platform.",
            )
        return ResolvedImage(reference, manifest.digest, parsed, layers, layout.path, remedy)

    def _manifest(self, layout: Layout, found: Descriptor, remedy: str) -> Descriptor:
        """Follow indexes to the manifest for this machine's platform."""
        for _ in range(4):
            if found.media_type in _MANIFESTS:
                return found
            if found.media_type not in _INDEXES:
                raise ImageCorrupt(f"{found.digest} is not an image manifest.")
            what = "The image index"
            entries = parse_descriptors(
                load_json(layout.read_document(found, remedy), what), "manifests", what
            )
            fitting = [e for e in entries if e.platform in {"", self._platform}]
            if not fitting:
                raise ImageCorrupt(f"It has no variant for {self._platform}.")
            found = fitting[0]
        raise ImageCorrupt("Its indexes are nested too deeply.")

    def list(self) -> list[StoredImage]:
        """List the store's images by name; a damaged one is listed with its problem."""
        if not self.layout.exists:
            return []
        listed: list[StoredImage] = []
        for name, descriptor in sorted(self.layout.names().items()):
            try:
                image = self._load(name, self.layout, descriptor, "")
            except (ImageCorrupt, ImageMissing) as error:
                listed.append(StoredImage(name, descriptor.digest, 0, problem=error.message))
            else:
                created = image.config.created
                listed.append(StoredImage(name, image.digest, image.size, created))
        return listed

    def remove(self, name: str, in_use: Callable[[str], bool]) -> int:
        """Remove a name and the blobs only it used; return the bytes freed.

        `in_use(digest)` tells whether a running environment was booted from that manifest; then
        InvalidArgument is raised. A damaged image can be removed. Raises ImageMissing.
        """
        check_name(name)
        if not self.layout.exists:
            raise ImageMissing(f"There is no image '{name}' on this machine.", hint="")
        with self.layout.locked():
            found = self.layout.names().get(name)
            if found is None:
                raise ImageMissing(f"There is no image '{name}' on this machine.", hint="")
            if in_use(self._digest(found)):
                raise InvalidArgument(
                    f"Image '{name}' is in use by a running environment.",
                    hint="Destroy that environment first ('waggle env ls').",
                )
            self.layout.untag(name)
            return self.layout.collect()

    def _digest(self, found: Descriptor) -> str:
        try:
            return self._manifest(self.layout, found, "").digest
        except ImageCorrupt:
            return found.digest

    def collect(self) -> int:
        """Remove blobs that no image reaches and leftovers of killed builds; return bytes freed."""
        if not self.layout.exists:
            return 0
        with self.layout.locked():
            return self.layout.collect()


def check_name(name: str) -> None:
    """Refuse a name that an OCI layout could not hold. Raises InvalidArgument."""
    if len(name) > 255 or not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name[:80]!r} is not an image name.")


def _split_path(reference: str) -> tuple[Path, str] | None:
    text = reference.removeprefix("oci:")
    if text == reference and not text.startswith(("/", "./")):
        return None
    directory, _, tag = text.rpartition(":")
    if not directory or "/" in tag:
        directory, tag = text, ""
    if "\0" in text or not directory.startswith(("/", "./")):
        raise InvalidArgument(f"{reference[:80]!r} does not name an OCI layout by its path.")
    return Path(directory), tag
