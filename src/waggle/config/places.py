# SPDX-License-Identifier: Apache-2.0
"""Where things are kept: the settings, and the paths of an installation that follow. Pure.

`data` belongs to one server at a time; `cache` holds files that can be rebuilt and is shared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from waggle.config.parsers import AbsolutePath, Duration, Section, Whole, setting


class StorageSection(Section):
    """Where things are kept."""

    data_dir: AbsolutePath = setting(
        "", "State and running machines. One server at a time may use it."
    )
    image_cache_dir: AbsolutePath = setting(
        "",
        "Images, their disks, the guest kernel and kit: all of it can be made again, and servers "
        "may share it.",
    )
    image_cache_max_age: Duration = setting(
        "168h", "An image's root disk unused so long is removed from the cache."
    )
    disk_reserve_mb: Whole = setting(
        "512",
        "MiB of the disks of both directories that are kept free: with less, environments are "
        "neither created nor copied, snapshots and pauses to disk are refused, images not pulled, "
        "and machines that met a full disk stay paused until there is as much again.",
        ge=0,
        le=1_000_000_000,
    )


_STDIO = "stdio"
_PRIVATE = re.compile(r"[0-9a-f]{8}")
"""The names that `waggle.app.serving.private_state` gives."""


@dataclass(frozen=True, slots=True)
class Places:
    """The paths of one installation. Creates none of them."""

    data: Path
    cache: Path

    @classmethod
    def of(cls, settings: StorageSection) -> Places:
        """Return the paths that the settings name."""
        return cls(settings.data_dir, settings.image_cache_dir)

    @property
    def lock(self) -> Path:
        """The lock of the server that owns `data`."""
        return self.data / "server.lock"

    @property
    def state(self) -> Path:
        """The SQLite database."""
        return self.data / "state.db"

    @property
    def approved_rules(self) -> Path:
        """The network rules that people allowed for always when they were asked."""
        return self.data / "network-rules.toml"

    @property
    def link_key(self) -> Path:
        """The key that signs links to exposed ports."""
        return self.data / "link.key"

    @property
    def environments(self) -> Path:
        """One directory for each environment that runs or is paused."""
        return self.data / "environments"

    @property
    def frozen(self) -> Path:
        """Frozen machines of environments while other machines are resumed from them."""
        return self.data / "moments"

    @property
    def snapshots(self) -> Path:
        """One directory for each snapshot."""
        return self.data / "snapshots"

    @property
    def stdio(self) -> Path:
        """One directory for each stdio server, its own `data`."""
        return self.data / _STDIO

    @property
    def binaries(self) -> Path:
        """The programs of VMMs that the operator added; stdio servers share them."""
        own = self.data.parent.name == _STDIO and _PRIVATE.fullmatch(self.data.name)
        return (self.data.parent.parent if own else self.data) / "system" / "binaries"

    @property
    def images(self) -> Path:
        """The image store, OCI layouts."""
        return self.cache / "images"

    @property
    def layers(self) -> Path:
        """Unpacked layers, which images share."""
        return self.cache / "layers"

    @property
    def disks(self) -> Path:
        """Root disks and empty scratch disks."""
        return self.cache / "disks"

    @property
    def templates(self) -> Path:
        """Templates, from which machines are resumed."""
        return self.cache / "templates"

    @property
    def guest(self) -> Path:
        """The guest kernel and kit."""
        return self.cache / "guest"
