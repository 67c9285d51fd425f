# SPDX-License-Identifier: Apache-2.0
"""What one machine on this host is made of. Data only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from waggle.domain.environment import Resources
from waggle.domain.image import BootImage
from waggle.domain.machine import GuestDisks
from waggle.domain.programs.runtime import RuntimeName


class Scratch(Protocol):
    """Maker of writable disks."""

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`; takes milliseconds. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class GuestParts:
    """What every guest is made of beside its image. `certificates` is PEM or empty."""

    kernel: Callable[[], Path]
    kit: Callable[[], Path]
    scratch: Scratch
    certificates: bytes


@dataclass(frozen=True, slots=True)
class MadeOf:
    """What a machine consists of beside its state: copies of a frozen one need exactly this."""

    runtime: RuntimeName
    image: BootImage
    kernel: Path
    kit: Path
    resources: Resources


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One machine to be: its parts, its identity's records, and the directory for its files.

    `owner` is whose it will be; None if that is not known yet.
    """

    id: str
    made_of: MadeOf
    identity: Mapping[str, bytes]
    files: Path
    owner: str | None = None

    @property
    def disks(self) -> GuestDisks:
        """Its four disks; the last two are in its own directory."""
        own = self.files / "scratch.img", self.files / "identity.img"
        return GuestDisks(self.made_of.kit, self.made_of.image.disk, *own)
