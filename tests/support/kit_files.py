# SPDX-License-Identifier: Apache-2.0
"""The kit's program `files`, compiled for this host, which works on files here as it does there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.programs import program

from waggle.infra.rootfs.kit import GUEST_SOURCES

SOURCES = (
    "files",
    "walk",
    "search",
    "content",
    "pack",
    "unpack",
    "watch",
    "batch",
    "clock",
    "common",
)


def build_files(directory: Path) -> Path:
    """Compile it into `directory`, with the warnings of the kit's own build."""
    made = directory / "files"
    sources = [str(GUEST_SOURCES / f"{name}.c") for name in SOURCES]
    flags = ["-static", "-Os", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    # Undefined behaviour ends the program instead of passing unseen.
    checks = ["-fsanitize=bounds,undefined", "-fsanitize-undefined-trap-on-error"]
    subprocess.run([program("cc"), *flags, *checks, "-o", str(made), *sources], check=True)
    return made
