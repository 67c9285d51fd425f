# SPDX-License-Identifier: Apache-2.0
"""An image as a machine needs it: one read-only disk and what its configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from waggle.domain.errors import InvalidArgument
from waggle.domain.host import Progress
from waggle.domain.reference import ImageReference, matches, parse_reference


@dataclass(frozen=True, slots=True)
class BootImage:
    """A bootable image and what its configuration asks for.

    `disk` is shared by all machines; `variables` is the image's own Env. `user`, as
    `name[:group]` or numbers, is resolved in the guest. `directory` is absolute. What is empty is
    waggle's to choose.
    """

    reference: str
    digest: str
    disk: Path
    variables: Mapping[str, str]
    user: str = ""
    directory: str = ""
    """Where programs start."""
    shell: str = ""
    """What greets a person: a path, or a name to look for in PATH."""


class PullRule(StrEnum):
    """When the registry is asked what a tag means."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


def needs_pull(
    reference: ImageReference, rule: PullRule | timedelta, *, is_here: bool, age: timedelta | None
) -> bool:
    """Whether to ask the registry before the image is used. Pure.

    `age` is how long ago it was asked; None when that is not known. A name without a registry is
    never asked for, and a digest that is here means what it meant.
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
    """What clients may name: the operator's own names, and references that match a pattern."""

    names: frozenset[str]
    """Told to clients, so no paths of the host are among them."""
    patterns: tuple[str, ...] = ()
    default_registry: str = ""

    def check(self, text: str) -> str:
        """The image's name as it is kept. Raises InvalidArgument when it is not allowed."""
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
    """Where boot images come from."""

    async def boot_image(self, reference: str, progress: Progress, owner: str = "") -> BootImage:
        """The image, its disk made first if need be. Idempotent; safe to cancel.

        Who asks is an owner, or the server itself.

        Raises ImageMissing (with the command that makes it) or ImageCorrupt.
        """
        ...

    async def missing(self) -> str | None:
        """Why no environment could be booted for lack of images, or None."""
        ...
