# SPDX-License-Identifier: Apache-2.0
"""The package `waggle-server`: the server and its pinned Python packages, for one Python.

Called by `packages.make`. It is laid out as a virtual environment of the system's Python, so that
processes which the server starts find the same packages as it does. Knows nothing of the steps.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lab import wheels
from packages.stage import Stage
from packages.tree import PYTHON
from waggle.infra.shared import debian
from waggle.infra.shared.debian import OnLine

NAME = "waggle-server"
HOME = f"usr/lib/{NAME}"
SITE = f"{HOME}/lib/python{PYTHON}/site-packages"
DOC = f"usr/share/doc/{NAME}"
_VENV = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
_PROGRAMS = {
    "usr/bin/waggle": "server/launcher",
    "usr/bin/waggle-with-settings": "server/with-settings",
}
_FILES = {
    "etc/waggle/waggle.env": "server/waggle.env",
    "usr/lib/systemd/system/waggle.service": "server/waggle.service",
    f"usr/lib/sysusers.d/{NAME}.conf": "server/sysusers.conf",
    f"usr/lib/tmpfiles.d/{NAME}.conf": "server/tmpfiles.conf",
    f"{DOC}/examples/unprivileged.conf": "server/unprivileged.conf",
    f"{DOC}/copyright": "server/copyright",
    f"{DOC}/changelog.Debian": "changelog",
    "usr/share/man/man1/waggle.1": "server/waggle.1",
    f"usr/share/lintian/overrides/{NAME}": "server/lintian-overrides",
}


async def build_wheel(checkout: Path, directory: Path, on_line: OnLine, epoch: int) -> Path:
    """Make the wheel of a checkout. Raises SetupIncomplete."""
    # mmdebstrap's environment is not needed; the directory is hatchling's own choice.
    argv = ["env", "-C", str(checkout), f"SOURCE_DATE_EPOCH={epoch}"]
    argv += [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    await debian.run(argv, on_line)
    (wheel,) = directory.glob("*.whl")
    return wheel


async def fetch(checkout: Path, directory: Path, on_line: OnLine) -> Path:
    """Fetch the pinned packages; return the directory with them. Raises SetupIncomplete."""
    pins = (checkout / "requirements/runtime.txt").read_text("utf-8")
    wanted = wheels.select(pins, (), python=PYTHON)
    return await wheels.install(wanted, directory, on_line, python=PYTHON)


def stage(root: Path, values: Mapping[str, str], site: Path, wheel: Path, checkout: Path) -> Stage:
    """Lay out the package. `site` has its Python packages, `wheel` is the server itself."""
    new = Stage(root, values)
    target = new.directory(SITE)
    shutil.copytree(site, target, dirs_exist_ok=True)
    # Programs of the packages, for another Python; nothing uses them.
    shutil.rmtree(target / "bin", ignore_errors=True)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(target)
    new.put(f"{HOME}/pyvenv.cfg", _VENV.encode())
    new.link(f"{HOME}/bin/python3", "../../../bin/python3")
    for name, source in _PROGRAMS.items():
        new.fill(name, source, runs=True)
    for name, source in _FILES.items():
        new.fill(name, source)
    new.link("usr/share/man/man1/waggle-with-settings.1.gz", "waggle.1.gz")
    for document in sorted((checkout / "docs").glob("*.md")):
        new.put(f"{DOC}/{document.name}", document.read_bytes())
    new.settle()
    new.control("server", "postinst", "prerm", "postrm")
    return new
