# SPDX-License-Identifier: Apache-2.0
"""Print the arguments of `minimal.py` for one machine, with its disks made in an empty directory.

`python -m lab.ingredients DIRECTORY IMAGE-DISK` makes scratch and identity disks; kernel and kit
come from the cache. The keys are discarded: only the SSH banner is awaited, without a login.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path

from waggle.config import load
from waggle.config.places import Places
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.rootfs.machine_disks import ScratchDisks, identity_records, pack
from waggle.infra.ssh import new_keys


async def prepare(directory: Path, image: Path) -> list[str]:
    """Return the arguments. Raises SetupIncomplete if kernel or kit is missing."""
    places, keys = Places.of(load()), new_keys()
    scratch, identity = directory / "scratch.img", directory / "identity.img"
    await ScratchDisks(places.disks).make(64, scratch)
    identity.write_bytes(
        pack(
            identity_records(
                host_key=keys.host_key,
                authorized_keys=keys.authorized_keys,
                hostname="minimal",
                environment={},
            )
        )
    )
    disks = (GuestKit(places.guest).require(), image, f"{scratch}:rw", identity)
    return ["--kernel", str(GuestKernel(places.guest).require()), *map(str, disks)]


if __name__ == "__main__":
    print(shlex.join(asyncio.run(prepare(Path(sys.argv[1]), Path(sys.argv[2])))))
