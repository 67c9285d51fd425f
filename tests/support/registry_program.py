# SPDX-License-Identifier: Apache-2.0
"""The program docker-registry: installed, or taken from Debian's package without installing it.

Installing the package starts a registry that every machine of the network can reach; tests need
only the program. It is fetched once through apt and kept.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.support.packages import SECONDS, unpacked
from tests.support.vm import CACHE

from waggle.infra.shared.files import FileLock

NAME = "docker-registry"
KEPT = CACHE / NAME


def registry_program(kept: Path = KEPT) -> str:
    """Return the program's path. Fails the test if it is not available."""
    if installed := shutil.which(NAME):
        return installed
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_name(f".{NAME}.lock"), timeout=2 * SECONDS):
        if not kept.exists():
            try:
                _fetch(kept)
            except (OSError, subprocess.SubprocessError) as error:
                pytest.fail(f"{NAME} cannot be had: does 'apt-get download {NAME}' work? {error}")
    return str(kept)


def _fetch(kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent) as name:
        (unpacked(NAME, Path(name)) / "usr/bin" / NAME).replace(kept)
