# SPDX-License-Identifier: Apache-2.0
"""Fetches pinned PyPI wheels with pip and turns parts of them into entries of a layer.

Called by `build`. pip's own configuration decides where from; the digests of the definition decide
what is accepted. The wheels are only read: nothing is installed or run.
"""

from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import SetupIncomplete
from waggle.infra.oci.definition import Wheel
from waggle.infra.oci.layers import ALIGN
from waggle.infra.oci.limits import DEFAULT_LIMITS
from waggle.infra.oci.paths import clean_path
from waggle.infra.oci.tar import Entry

_TIMEOUT = 900.0


def download(wheels: Sequence[Wheel], directory: Path) -> list[Path]:
    """Put the wheels into `directory`, digests checked; return them in the order asked for.

    Blocks for at most 15 minutes. Raises SetupIncomplete with pip's last lines.
    """
    found: list[Path] = []
    for number, wheel in enumerate(wheels):
        target = directory / str(number)
        target.mkdir()
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in wheel.sha256)
        requirements = target / "requirements.txt"
        requirements.write_text(f"{wheel.name}=={wheel.version} {hashes}\n", "utf-8")
        argv = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input",
            "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check",
            f"--dest={target}", f"--requirement={requirements}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SetupIncomplete(f"pip did not fetch {wheel.name} in 15 minutes.") from error
        files = sorted(target.glob("*.whl"))
        if done.returncode or len(files) != 1:
            tail = done.stderr.decode("utf-8", "replace").strip()[-1500:]
            raise SetupIncomplete(
                f"pip could not fetch {wheel.name}=={wheel.version}:\n{tail}\n",
                hint="Check that pip can download packages here.",
            )
        found.append(files[0])
    return found


def unpack(wheel: Wheel, file: Path, data: BinaryIO, epoch: int) -> list[Entry]:
    """Append the contents that `wheel.unpack` names to `data`; return their entries.

    Of modes only whether a file is executable is kept. Raises SetupIncomplete when the wheel has
    nothing at one of the places.
    """
    entries: list[Entry] = []
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        for source, target in wheel.unpack.items():
            below = source if source.endswith("/") else "\0"
            chosen = [
                member
                for member in members
                if not member.is_dir()
                and (member.filename == source or member.filename.startswith(below))
            ]
            if not chosen:
                raise SetupIncomplete(f"{file.name} has nothing at {source}.", hint="")
            for member in chosen:
                name = target + member.filename.removeprefix(source)
                mode = 0o755 if member.external_attr >> 16 & 0o111 else 0o644
                with archive.open(member) as content:
                    entries.append(add_file(data, name, content.read(), mode, epoch))
    return entries


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
