# SPDX-License-Identifier: Apache-2.0
"""A snapshot kept in a data directory, without a machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from waggle.domain.environment import Resources
from waggle.domain.image import BootImage
from waggle.domain.machine import RAM, SCRATCH
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Snapshot
from waggle.infra.store import frozen_files
from waggle.infra.store.frozen_files import FILES
from waggle.service.local.blueprint import MachineParts
from waggle.service.local.frozen.manifest import to_facts as parts_facts
from waggle.service.local.frozen.snapshots import (
    to_facts,
)

OLD, NEW = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
THEN, LATER = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
VMM = {"vmm": "QEMU 10.0", "cpu": "a", "machine": "microvm"}


def machine_parts(here: Path) -> list[Path]:
    return [here / name for name in ("disks/image.erofs", "guest/kernel-1", "guest/kit-1.erofs")]


def installed(here: Path) -> Path:
    for path in machine_parts(here):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return here


def unchanged(_facts: dict[str, Any]) -> None:
    pass


def kept(here: Path, change: Callable[[dict[str, Any]], None] = unchanged) -> Path:
    """Keep a snapshot of ann's in a data directory, with its facts changed by `change`."""
    installed(here)
    disk, kernel, kit = machine_parts(here)
    resources = Resources(1, 2, 1)
    image = BootImage("local/python", "sha256:1", disk, {}, "", "", "")
    snapshot = Snapshot(
        id=OLD,
        name="ready",
        owner="ann",
        origin=NEW,
        runtime=RuntimeName.PYTHON,
        image="local/python",
        resources=resources,
        network=NO_NETWORK,
        directory="/home/sandbox",
        booted_from={"image": "sha256:1"},
        created_at=THEN,
        expires_at=THEN,
        registries=("pip.example.org:443",),
    )
    made = MachineParts(RuntimeName.PYTHON, image, kernel, kit, resources)
    facts: dict[str, Any] = {**parts_facts(made, "qemu", VMM), "snapshot": to_facts(snapshot)}
    change(facts)
    directory = here / "snapshots" / OLD
    directory.mkdir(parents=True)
    for name in FILES:
        (directory / name).write_bytes(name.encode() + bytes(100_000))
    os.truncate(directory / RAM, resources.memory_mib << 20)
    os.truncate(directory / SCRATCH, resources.disk_mib << 20)
    frozen_files.seal(directory, facts)
    return directory
