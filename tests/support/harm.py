# SPDX-License-Identifier: Apache-2.0
"""Ways to damage a kept file."""

from __future__ import annotations

from pathlib import Path


def cut(path: Path) -> None:
    """Keep only the first half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
