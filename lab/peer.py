# SPDX-License-Identifier: Apache-2.0
"""microsandbox, a peer that embeds libkrun, from its wheel: krun's times are compared with it.

Used only by the benchmarks. Pinned, checked by its digest, and run only in a machine with working
virtualisation.
"""

from __future__ import annotations

from pathlib import Path

from lab import wheels
from lab.store import Store, key_of
from waggle.infra.shared import debian

KIND = "peer"
REQUIREMENT = (
    "microsandbox==0.7.11 "
    "--hash=sha256:65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0\n"
)
PROGRAM = Path("site/microsandbox/_bundled/bin/msb")
"""The path in the directory that `ensure` returns; it finds its libkrunfw beside itself."""


async def ensure(store: Store, on_line: debian.OnLine) -> Path:
    """Return the directory that holds the unpacked wheel. Raises SetupIncomplete."""

    async def make(directory: Path) -> None:
        await wheels.install(REQUIREMENT, directory, on_line)
        (directory / PROGRAM).chmod(0o755)

    return await store.ensure(KIND, key_of(REQUIREMENT), make)
