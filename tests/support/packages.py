# SPDX-License-Identifier: Apache-2.0
"""Files from Debian packages, fetched through apt and not installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 120
"""Limit for fetching one package, and for unpacking it."""


def unpacked(package: str, directory: Path) -> Path:
    """Fetch a package into an empty directory; return the tree of its files.

    Raises OSError and subprocess.SubprocessError if it is not available.
    """
    for argv in (["apt-get", "-q", "download", package], ["sh", "-c", "dpkg-deb -x *.deb tree"]):
        subprocess.run(argv, cwd=directory, check=True, capture_output=True, timeout=SECONDS)
    return directory / "tree"
