# SPDX-License-Identifier: Apache-2.0
"""Files out of Debian's packages, fetched through apt and not installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 120
"""For fetching one package, and for unpacking it."""


def unpacked(package: str, directory: Path) -> Path:
    """Fetch a package into an empty directory; return the tree of its files.

    Raises OSError and subprocess.SubprocessError where it cannot be had.
    """
    for argv in (["apt-get", "-q", "download", package], ["sh", "-c", "dpkg-deb -x *.deb tree"]):
        subprocess.run(argv, cwd=directory, check=True, capture_output=True, timeout=SECONDS)
    return directory / "tree"
