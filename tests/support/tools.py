# SPDX-License-Identifier: Apache-2.0
"""Clients of other makers for the tests, installed once under `.cache/clients` by their pins.

The pins are in `tests/clients`. `python -m tests.support.tools` installs everything in advance.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import NODE

from waggle.infra.shared.files import FileLock

ROOT = Path(__file__).parents[2]
PINS = ROOT / "tests" / "clients"
CACHE = ROOT / ".cache" / "clients"
INSTALL_SECONDS = 600
_NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@dataclass(frozen=True, slots=True)
class NodeTools:
    """A directory with the pinned packages of `tests/clients/node`."""

    directory: Path

    def command(self, tool: str) -> list[str]:
        """Return the start of a command line that runs a package's program."""
        return [str(NODE), str(self.directory / "node_modules" / ".bin" / tool)]

    def script(self, name: str) -> list[str]:
        """Return the start of a command line that runs a waggle script beside the packages."""
        return [str(NODE), str(self.directory / name)]


@functools.cache
def node_tools() -> NodeTools:
    """Return the Node packages; installing missing ones takes half a minute."""
    pins = [PINS / "node" / name for name in (".npmrc", "package-lock.json", "package.json")]
    directory = _installed("node", pins, _node)
    for script in (PINS / "node").glob("*.mjs"):  # their imports are beside them there
        shutil.copy(script, directory)
    return NodeTools(directory)


@functools.cache
def fastmcp_python() -> Path:
    """Return a Python with fastmcp's client, installed with its own pinned requirements."""
    return _installed("fastmcp", [PINS / "fastmcp.txt"], _fastmcp) / "bin" / "python"


def environment(home: Path | None = None) -> dict[str, str]:
    """Return variables for those programs: the caller's, with Node's directory first on PATH."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("WAGGLE_")}
    found["PATH"] = f"{NODE.parent}{os.pathsep}{found.get('PATH', os.defpath)}"
    return found if home is None else {**found, "HOME": str(home)}


def _installed(kind: str, pins: list[Path], make: Callable[[Path], None]) -> Path:
    """Return the directory for these pins, made completely or not at all. Removes older ones."""
    digest = hashlib.sha256(sys.version.encode())
    for pin in pins:
        digest.update(pin.name.encode() + b"\0" + pin.read_bytes() + b"\0")
    path = CACHE / f"{kind}-{digest.hexdigest()[:16]}"
    done = path / ".done"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f".{kind}.lock", timeout=INSTALL_SECONDS):
        if not done.exists():
            for old in CACHE.glob(f"{kind}-*"):
                shutil.rmtree(old)
            path.mkdir()
            make(path)
            done.touch()
    return path


def _node(path: Path) -> None:
    for pin in (PINS / "node").iterdir():
        shutil.copy(pin, path)
    _run([str(NODE), str(_NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], path)


def _fastmcp(path: Path) -> None:
    venv.create(path, with_pip=True, symlinks=True)
    pip = [str(path / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    options = ["--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check"]
    _run([*pip, *options, "-r", str(PINS / "fastmcp.txt")], path)


def _run(command: list[str], directory: Path) -> None:
    with tempfile.TemporaryFile() as log:
        ended = subprocess.run(
            command,
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said[-3000:]}")


if __name__ == "__main__":
    node_tools()
    fastmcp_python()
