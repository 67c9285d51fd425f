# SPDX-License-Identifier: Apache-2.0
"""A puller whose clock the test controls, and the image that it pulls."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support.images import ARCHITECTURE, Layer, directory, file

from waggle.infra.oci.registry import Puller
from waggle.infra.oci.registry.options import Ambient, Reach, RegistryOptions, Transfer, reach_of
from waggle.infra.oci.store.layout import Layout

PLATFORM = f"linux/{ARCHITECTURE}"
NOISE = random.Random(4).randbytes(400_000)
LAYERS: Sequence[Layer] = [
    [directory("etc"), file("etc/a", NOISE)],
    [file("etc/b", NOISE[::-1])],
]


def quiet(_report: Transfer) -> None:
    pass


@dataclass
class World:
    """A clock that advances only in pauses, the reports received, and the layout to inspect."""

    layout: Layout
    pauses: list[float] = field(default_factory=list[float])
    reports: list[Transfer] = field(default_factory=list[Transfer])
    reach: Callable[[str], Reach] = reach_of
    time: float = 1_700_000_000.0

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds

    def puller(self, options: RegistryOptions) -> Puller:
        ambient = Ambient(
            sleep=self.sleep, now=lambda: self.time, chance=lambda: 1.0, reach=self.reach
        )
        return Puller(self.layout, options, platform=PLATFORM, ambient=ambient)

    def is_clean(self) -> bool:
        """Return whether the layout is empty: no workspace, no blob, no name."""
        path = self.layout.path
        blobs = list((path / "blobs" / "sha256").glob("*")) if path.exists() else []
        return not blobs and not list(path.glob(".tmp-*")) and not self.names()

    def names(self) -> list[str]:
        return sorted(self.layout.names()) if self.layout.exists else []
