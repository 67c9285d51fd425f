# SPDX-License-Identifier: Apache-2.0
"""Settings of a server in a directory of its own."""

from __future__ import annotations

from pathlib import Path

from waggle.config import Settings, load


def settings_in(directory: Path, **more: str) -> Settings:
    given = {"data_dir": str(directory / "data"), "listen_addr": "127.0.0.1:0", **more}
    return load({f"WAGGLE_{name.upper()}": value for name, value in given.items()})
