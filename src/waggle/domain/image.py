# SPDX-License-Identifier: Apache-2.0
"""An image as a machine needs it: one read-only disk and what its configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from waggle.domain.host import Progress


@dataclass(frozen=True, slots=True)
class BootImage:
    """A bootable image. `disk` is shared by all machines; `variables` is the image's own Env."""

    reference: str
    digest: str
    disk: Path
    variables: Mapping[str, str]


class BootImages(Protocol):
    """Where boot images come from."""

    async def boot_image(self, reference: str, progress: Progress) -> BootImage:
        """The image, its disk made first if need be. Idempotent; safe to cancel.

        Raises ImageMissing (with the command that makes it) or ImageCorrupt.
        """
        ...

    async def missing(self) -> str | None:
        """Why no environment could be booted for lack of images, or None."""
        ...
