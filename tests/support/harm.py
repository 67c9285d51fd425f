# SPDX-License-Identifier: Apache-2.0
"""What can happen to a file that is kept: each of these harms one."""

from __future__ import annotations

from pathlib import Path


def cut(path: Path) -> None:
    """Only the first half is left."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One byte is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
