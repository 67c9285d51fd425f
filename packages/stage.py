# SPDX-License-Identifier: Apache-2.0
"""Directories with the files of a package as they will be installed, and its control files.

Filled by `packages.agent` and `packages.server`; the steps in the tree make packages of them. Modes
are set here, times and owners by the steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FILES = Path(__file__).with_name("files")
_PLACE = re.compile(r"@([A-Z_]+)@")
_DIRECTORY, _FILE, _PROGRAM = 0o755, 0o644, 0o755


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return the text with every `@NAME@` replaced. Raises KeyError for an unknown one. Pure."""
    return _PLACE.sub(lambda match: values[match[1]], text)


class Stage:
    """One directory, `root`, which must not exist. `values` are for templates."""

    def __init__(self, root: Path, values: Mapping[str, str]) -> None:
        self.root = root
        self._values = values
        self._programs: set[Path] = set()
        root.mkdir(mode=_DIRECTORY)

    def put(self, target: str, content: bytes, *, runs: bool = False) -> None:
        """Write a file. `runs`: it is a program."""
        path = self._place(target)
        path.write_bytes(content)
        path.chmod(_PROGRAM if runs else _FILE)
        if runs:
            self._programs.add(path)

    def fill(self, target: str, source: str, *, runs: bool = False) -> None:
        """Write a file of a template below `FILES`."""
        text = filled((FILES / source).read_text("utf-8"), self._values)
        self.put(target, text.encode(), runs=runs)

    def link(self, target: str, to: str) -> None:
        """Make a symbolic link."""
        self._place(target).symlink_to(to)

    def directory(self, target: str) -> Path:
        """Make a directory and return its path."""
        path = self._place(target)
        path.mkdir(mode=_DIRECTORY)
        return path

    def control(self, kind: str, *scripts: str) -> None:
        """Add the control files for dpkg, from `FILES/<kind>`. `scripts` are the maintainer's."""
        for name in ("control", "conffiles"):
            self.fill(f"DEBIAN/{name}", f"{kind}/{name}")
        for name in scripts:
            self.fill(f"DEBIAN/{name}", f"{kind}/{name}", runs=True)

    def settle(self) -> None:
        """Give everything below the modes of a package: unpacked wheels have any."""
        for path in self.root.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(_DIRECTORY)
            elif not path.is_symlink():
                path.chmod(_PROGRAM if path in self._programs else _FILE)

    def _place(self, target: str) -> Path:
        path = self.root / target
        path.parent.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
        return path
