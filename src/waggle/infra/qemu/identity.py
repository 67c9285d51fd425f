# SPDX-License-Identifier: Apache-2.0
"""Which QEMU, and which processor: what the state of a frozen machine is locked to."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from waggle.domain.errors import SetupIncomplete

_CPUINFO = Path("/proc/cpuinfo")
_TELLING = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")


def program_digest(name: str) -> str:
    """A short digest of the program's bytes. Raises SetupIncomplete when there is none."""
    found = shutil.which(name)
    if found is None:
        raise SetupIncomplete(f"There is no QEMU: {name} cannot be found.")
    path = Path(found).resolve()
    about = path.stat()
    return _digest(path, about.st_ino, about.st_size, about.st_mtime_ns)


def program_of(digest: str, names: Iterable[str]) -> str | None:
    """The first of these programs that has the digest now; those that are missing have none."""
    for name in names:
        with contextlib.suppress(SetupIncomplete):
            if program_digest(name) == digest:
                return name
    return None


@functools.lru_cache(maxsize=8)
def _digest(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def host_cpu() -> str:
    """A short digest of what a guest sees of this processor with `-cpu host`."""
    told = _processor()
    text = "\n".join(f"{key}={told.get(key, '')}" for key in _TELLING)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def host_model() -> str:
    """This processor's model: an emulated guest knows how fast its counter runs."""
    return _processor().get("model name", "unknown")


def _processor() -> dict[str, str]:
    first = _CPUINFO.read_text().partition("\n\n")[0]
    rows = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in rows}
