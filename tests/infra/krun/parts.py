# SPDX-License-Identifier: Apache-2.0
"""A machine's parts as plain files, for runners that never start a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waggle.domain.machine import GuestDisks, MachineSpec, Resources
from waggle.infra.guest.forwarder import claim

UID = 1_900_000_779
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root can hand files to another user"
)


def spec_in(directory: Path, uid: int | None = None) -> MachineSpec:
    """Return a specification whose files exist, with a free port."""
    names = ("kernel", "kit", "image", "scratch", "identity")
    for name in names:
        (directory / name).write_bytes(name.encode() * 1000)
        (directory / name).chmod(0o644 if name in names[:3] else 0o600)
    kernel, kit, image, scratch, identity = (directory / name for name in names)
    with claim(0) as listener:
        port = int(listener.getsockname()[1])
    return MachineSpec(
        id="test",
        resources=Resources(cpus=1, memory_mib=64, disk_mib=1),
        kernel=kernel,
        disks=GuestDisks(kit, image, scratch, identity),
        ssh_port=port,
        console_log=directory / "console.log",
        boot_timeout=20.0,
        uid=uid,
    )
