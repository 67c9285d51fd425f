# SPDX-License-Identifier: Apache-2.0
"""libkrunfw from the distribution: the file that libkrun and its users load by name."""

from __future__ import annotations

from pathlib import Path

from lab.store import Store, key_of
from waggle.infra.rootfs.kit import LIBRARY, PACKAGE, PACKAGE_SUITE
from waggle.infra.shared import debian

KIND = "libkrunfw"


def fetch_argv(mirror: str, target: Path) -> list[str]:
    """Return the command that puts the library at `target`. Pure."""
    find = f'find "$1" -name "{LIBRARY}*" -type f -exec cp {{}} "{target}" ";"'
    hooks = [f"--extract-hook={find}"]
    return debian.tree_argv(mirror, suite=PACKAGE_SUITE, packages=[PACKAGE], hooks=hooks)


async def ensure(store: Store, mirror: str, on_line: debian.OnLine) -> Path:
    """Return the directory that holds the library. Raises SetupIncomplete."""

    async def make(directory: Path) -> None:
        await debian.run(fetch_argv(mirror, directory / LIBRARY), on_line)

    return await store.ensure(KIND, key_of(PACKAGE, PACKAGE_SUITE), make)
