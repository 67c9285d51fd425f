# SPDX-License-Identifier: Apache-2.0
"""Images: what a machine needs of one, which are allowed, and which the cache removes. Pure.

`waggle.service.local.images` calls this: `images` reads an image's configuration with it, `cache`
looks at the store and the disks and carries out the plan of `plan_prune`. Only what can be decided
without the image's files is decided here; the guest resolves user names and finds out whether a
directory or a shell exists.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from waggle.domain.errors import ImageCorrupt, InvalidArgument
from waggle.domain.files import MAX_PATH_BYTES
from waggle.domain.host import Progress
from waggle.domain.reference import ImageReference, matches, parse_reference


@dataclass(frozen=True, slots=True)
class BootImage:
    """A bootable image and what its configuration asks for.

    All machines share `disk`; `variables` is the image's own Env. `user`, as `name[:group]` or
    numbers, is resolved in the guest. `directory` is absolute. An empty field leaves the choice to
    waggle.
    """

    reference: str
    digest: str
    disk: Path
    variables: Mapping[str, str]
    user: str = ""
    directory: str = ""
    """Where programs start."""
    shell: str = ""
    """The interactive shell: a path, or a name to look for in PATH."""


class PullRule(StrEnum):
    """When to ask the registry which image a tag names."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


def needs_pull(
    reference: ImageReference, rule: PullRule | timedelta, *, is_here: bool, age: timedelta | None
) -> bool:
    """Whether to ask the registry before the image is used.

    `age` is the time since the registry was last asked, or None when that is not known. A name
    without a registry is never looked up, and a digest that is present cannot change.
    """
    if not reference.registry or rule is PullRule.NEVER:
        return False
    if not is_here:
        return True
    if reference.digest or rule is PullRule.MISSING:
        return False
    return rule is PullRule.ALWAYS or age is None or age > rule


@dataclass(frozen=True, slots=True)
class AllowedImages:
    """The images that clients may name: the operator's own names, and references that match."""

    names: frozenset[str]
    """Shown to clients, so no paths of the host are among them."""
    patterns: tuple[str, ...] = ()
    default_registry: str = ""

    def check(self, text: str) -> str:
        """Return the image's canonical name. Raises InvalidArgument for one that is not allowed."""
        if text in self.names:
            return text
        reference = parse_reference(text, self.default_registry)
        if any(matches(pattern, reference) for pattern in self.patterns):
            return str(reference)
        allowed = ", ".join((*sorted(self.names), *self.patterns)) or "none"
        raise InvalidArgument(
            f"The image {str(reference)[:80]} is not allowed here.",
            hint=f"Allowed are: {allowed}. The operator can add it to WAGGLE_ALLOWED_IMAGES.",
        )


class BootImages(Protocol):
    """The source of boot images."""

    async def boot_image(self, reference: str, progress: Progress, owner: str = "") -> BootImage:
        """Return the image, and make its disk first if needed. Idempotent; safe to cancel.

        `owner` is empty when the server itself needs the image. Raises ImageMissing (with the
        command that makes it) or ImageCorrupt.
        """
        ...

    async def missing(self) -> str | None:
        """Return why no environment could boot for lack of images, or None."""
        ...


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image in the cache: all of one manifest, that is its names, its blobs and its root disk.

    It is removed or kept as a whole; other images may share its blobs. Sizes are bytes, `used` is
    seconds since the epoch.
    """

    digest: str
    names: tuple[str, ...] = ()
    """Empty for a disk whose image is not, or no longer, in the store."""
    blobs: Mapping[str, int] = field(default_factory=dict[str, int])
    disk_bytes: int = 0
    used: float = 0.0
    pinned: bool = False
    """Whether a running environment uses it, or a setting names it."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """The images to remove, least recently used first, and the bytes that this frees and keeps."""

    remove: tuple[CachedImage, ...]
    freed_bytes: int
    kept_bytes: int


def plan_prune(
    images: Iterable[CachedImage], *, max_bytes: int | None = None, older_than: float | None = None
) -> PrunePlan:
    """Choose images to remove: those last used before `older_than`, then more to fit `max_bytes`.

    The least recently used are removed first. A pinned image is never removed, even if the rest
    stays too large. None means no bound.
    """
    everything = list(images)
    total = Counter[str]()
    sizes: dict[str, int] = {}
    for image in everything:
        sizes |= image.blobs
        total.update(image.blobs.keys())
    before = left = sum(sizes.values()) + sum(image.disk_bytes for image in everything)
    removed: list[CachedImage] = []
    loose = (image for image in everything if not image.pinned)
    for image in sorted(loose, key=lambda image: (image.used, image.digest)):
        is_old = older_than is not None and image.used < older_than
        is_over = max_bytes is not None and left > max_bytes
        if not (is_old or is_over):
            break
        removed.append(image)
        total.subtract(image.blobs.keys())
        left -= image.disk_bytes + sum(sizes[blob] for blob in image.blobs if not total[blob])
    return PrunePlan(tuple(removed), before - left, left)


SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "fish"})
MAX_USER = 255
_SHELL_OPTIONS = frozenset({"-i", "-l", "-il", "-li", "--login"})


def image_variables(entries: Sequence[str]) -> dict[str, str]:
    """Return Env as a dictionary; entries without a name are dropped, as container runtimes do."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name and "\0" not in name + value}


def image_user(text: str) -> str:
    """Return User as the guest's kit looks it up; characters that no name can hold become '?'.

    Never fails: the guest reports an unknown user.
    """
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:MAX_USER])


def image_directory(text: str) -> str:
    """Return WorkingDir as an absolute path without '..', as runtimes read it; empty if unset.

    Raises ImageCorrupt when it cannot be the path of a directory.
    """
    if not text:
        return ""
    path = "/" + posixpath.normpath("/" + text).lstrip("/")
    if not path.isprintable() or len(path.encode()) > MAX_PATH_BYTES:
        raise ImageCorrupt(
            "The image's WorkingDir is too long, or holds control characters.",
            hint="Build it with another WORKDIR.",
        )
    return path


def image_shell(entrypoint: Sequence[str], cmd: Sequence[str]) -> str:
    """Return the interactive shell that the image, or its Cmd alone, starts; empty if none."""
    for words in ((*entrypoint, *cmd), tuple(cmd)):
        if words and _is_shell(words[0]) and _SHELL_OPTIONS.issuperset(words[1:]):
            return words[0]
    return ""


def _is_shell(program: str) -> bool:
    parent, name = posixpath.split(program)
    is_plain = program == name or (parent.startswith("/") and program.isprintable())
    return is_plain and name in SHELLS and len(program.encode()) <= MAX_PATH_BYTES
