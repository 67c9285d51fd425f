# SPDX-License-Identifier: Apache-2.0
"""A snapshot as one file, to take to another directory or machine, and back. For operators.

Used by `waggle snapshot export` and `import`, beside a server or without one. All blocks. What is
imported was checked as far as it can be, but QEMU still reads device state from it: it has to come
from somebody who is trusted like this machine's operator.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from waggle.domain.errors import MomentUnusable
from waggle.domain.snapshot import Snapshot
from waggle.infra.shared.files import sync_directory
from waggle.infra.store import frozen_archive, frozen_files
from waggle.service.local.frozen.moments import UNFINISHED, Moments
from waggle.service.local.frozen.snapshots import parse_snapshot, to_facts

_MOST_MEMORY_MIB, _MOST_DISK_MIB = 1 << 16, 1 << 20
_SLACK = 64 << 20


def export(directory: Path, out: BinaryIO) -> None:
    """Write the snapshot in a directory to a file. Raises MomentUnusable or OSError."""
    if (why := frozen_files.problem(directory)) is not None:
        raise MomentUnusable(f"The snapshot cannot be used: {why}.")
    frozen_archive.pack(directory, out)


def bring(
    source: BinaryIO,
    shelf: Path,
    moments: Moments,
    *,
    snapshot_id: str,
    owner: str,
    expires_at: datetime,
) -> Snapshot:
    """Have what `export` wrote among the snapshots of a data directory; return it.

    It is verified, and refused when this machine could not go on from it; nothing is left then.
    A server that runs notices it. Raises MomentUnusable, SetupIncomplete or OSError.
    """
    shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=shelf))
    try:
        frozen_archive.unpack(source, work, _bounds)
        moments.check(work)
        facts = frozen_files.facts(work)
        with frozen_files.understanding():
            told = parse_snapshot(facts)
        kept = replace(told, id=snapshot_id, owner=owner, expires_at=expires_at)
        frozen_files.amend(work, {**facts, "snapshot": to_facts(kept)})
        place = shelf / snapshot_id
        if place.exists():
            raise MomentUnusable(f"There is a snapshot {snapshot_id} already.")
        work.rename(place)
        sync_directory(shelf)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return replace(kept, size=frozen_files.size(place))


def write_new(target: Path, directory: Path) -> int:
    """Export to a file that must not exist, for its owner's eyes only; return its size.

    Raises FileExistsError, MomentUnusable or OSError; nothing is left then.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
        try:
            export(directory, file)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _bounds(manifest: bytes) -> dict[str, int]:
    """How large each file may be, by what the machine had."""
    with frozen_files.understanding():
        facts = json.loads(manifest)["facts"]
        resources = cast("dict[str, object]", facts["resources"])
        memory, disk = resources["memory_mib"], resources["disk_mib"]
    if not (type(memory) is int and 0 < memory <= _MOST_MEMORY_MIB) or not (
        type(disk) is int and 0 < disk <= _MOST_DISK_MIB
    ):
        raise MomentUnusable("Its manifest tells of a machine larger than there are.")
    return {
        "ram": (memory << 20) + _SLACK,
        "state": _SLACK,
        frozen_files.SCRATCH: (disk << 20) + _SLACK,
        frozen_files.IDENTITY: 1 << 20,
    }
