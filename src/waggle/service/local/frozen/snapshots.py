# SPDX-License-Identifier: Apache-2.0
"""Snapshots on this host's disk; implements `domain.snapshot.SnapshotShelf`.

Built by the composition root; `waggle snapshot` reads and writes it, too. A snapshot is a directory
whose manifest has its description beside the facts of `manifest`. `export` and `bring` make it one
file and read that back, beside a server or without one; they block. An imported file is checked as
far as possible, but the VMM still reads device state from it: it has to come from somebody whom
this host's operator trusts like themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

import structlog

from waggle.domain import host
from waggle.domain.errors import FrozenMachineUnusable
from waggle.domain.machine import IDENTITY, RAM, SCRATCH, STATE, Resources
from waggle.domain.network import recorded_network
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.secrets.held import NO_SECRETS, held_in, without_placeholders
from waggle.domain.snapshot import Snapshot
from waggle.infra.shared.files import remove_directory
from waggle.infra.shared.work import place, sweep, workspace
from waggle.infra.store import frozen_archive, frozen_files
from waggle.service.local.frozen import Freezing, FrozenMachine
from waggle.service.local.frozen.manifest import hypervisor_of
from waggle.tasks import finish

log = structlog.get_logger(__name__)


FreezingOf = Callable[[str], Freezing]
"""Returns what freezes machines of a hypervisor. Raises Unsupported."""


class LocalSnapshots:
    """The snapshots below `directory`. One server at a time."""

    def __init__(self, directory: Path, freezing: FreezingOf) -> None:
        """Read what exists, and remove workspaces of a killed server."""
        self._directory = directory
        self._freezing = freezing
        sweep(directory)
        self._known: dict[str, Snapshot] = {}
        self._unreadable: set[str] = set()
        self.all()

    def all(self) -> list[Snapshot]:
        """See `SnapshotShelf.all`. Notices what `waggle snapshot` imported or removed."""
        there = set(_ids(self._directory))
        for gone in self._known.keys() - there:
            del self._known[gone]
        for new in there - self._known.keys():
            if new in self._unreadable:
                continue
            if (snapshot := _read(self._directory / new)) is not None:
                self._known[new] = snapshot
            else:
                self._unreadable.add(new)
        return sorted(self._known.values(), key=lambda snapshot: snapshot.created_at)

    async def keep(self, frozen_machine: host.FrozenMachine, snapshot: Snapshot) -> Snapshot:
        """See `SnapshotShelf.keep`."""
        if not isinstance(frozen_machine, FrozenMachine):
            raise FrozenMachineUnusable("It was not frozen by this server's hypervisor.")
        return await finish(self._keep(frozen_machine, snapshot))

    async def _keep(self, frozen: FrozenMachine, snapshot: Snapshot) -> Snapshot:
        path = self._directory / snapshot.id
        freezing = self._freezing(frozen.hypervisor)
        await freezing.keep(frozen, path, {"snapshot": to_facts(snapshot)})
        kept = replace(snapshot, hypervisor=frozen.hypervisor, size=frozen_files.size(path))
        self._known[kept.id] = kept
        return kept

    def opened(self, snapshot: Snapshot) -> AbstractAsyncContextManager[FrozenMachine]:
        """See `SnapshotShelf.opened`."""
        return self._freezing(snapshot.hypervisor).opened(self._directory / snapshot.id)

    async def remove(self, snapshot_id: str) -> None:
        """See `SnapshotShelf.remove`."""
        self._known.pop(snapshot_id, None)
        await finish(asyncio.to_thread(remove_directory, self._directory / snapshot_id))


def read_snapshots(directory: Path) -> list[Snapshot]:
    """Return every whole snapshot below a directory, oldest first."""
    found = (_read(directory / name) for name in _ids(directory))
    return sorted(filter(None, found), key=lambda snapshot: snapshot.created_at)


def _ids(directory: Path) -> list[str]:
    """Return the names of the snapshots' directories; workspaces begin with a dot."""
    try:
        return [path.name for path in directory.iterdir() if path.name[0] != "."]
    except FileNotFoundError:
        return []


def _read(path: Path) -> Snapshot | None:
    try:
        with frozen_files.understanding():
            snapshot = parse_snapshot(frozen_files.facts(path))
        return replace(snapshot, id=path.name, size=frozen_files.size(path))
    except (OSError, FrozenMachineUnusable) as error:
        log.warning("snapshot_unreadable", snapshot=path.name, error=repr(error))
        return None


def to_facts(snapshot: Snapshot) -> dict[str, object]:
    """Return the facts of a snapshot, without id and size, for its manifest."""
    resources = snapshot.resources
    return {
        "name": snapshot.name,
        "owner": snapshot.owner,
        "origin": snapshot.origin,
        "runtime": snapshot.runtime.value,
        "image": snapshot.image,
        "resources": [resources.cpus, resources.memory_mib, resources.disk_mib],
        "network": str(snapshot.network),
        "directory": snapshot.directory,
        "made_of": dict(snapshot.booted_from),
        "created_at": snapshot.created_at.isoformat(),
        "expires_at": snapshot.expires_at.isoformat(),
        "variables": dict(snapshot.variables),
        "packages": list(snapshot.packages),
        "registries": snapshot.registries,
        "secrets": snapshot.secrets.facts() if snapshot.secrets else None,
    }


def parse_snapshot(facts: Mapping[str, object]) -> Snapshot:
    """Return the snapshot that a manifest's facts describe, without id and size.

    Raises KeyError, TypeError, AttributeError or ValueError.
    """
    own = cast("dict[str, object]", facts["snapshot"])
    booted_from = cast("dict[str, object]", own["made_of"])
    variables = cast("dict[str, object]", own.get("variables", {}))
    registries = cast("list[object] | None", own.get("registries"))
    return Snapshot(
        id="",
        name=str(own["name"]),
        owner=str(own["owner"]),
        origin=str(own["origin"]),
        runtime=RuntimeName(str(own["runtime"])),
        image=str(own["image"]),
        hypervisor=hypervisor_of(facts),
        resources=Resources(*map(int, cast("list[int]", own["resources"]))),
        network=recorded_network(str(own["network"])),
        directory=str(own["directory"]),
        booted_from={str(name): str(part) for name, part in booted_from.items()},
        created_at=datetime.fromisoformat(str(own["created_at"])),
        expires_at=datetime.fromisoformat(str(own["expires_at"])),
        variables={str(name): str(value) for name, value in variables.items()},
        packages=tuple(map(str, cast("list[object]", own.get("packages", [])))),
        registries=None if registries is None else tuple(map(str, registries)),
        secrets=held_in(own.get("secrets")),
    )


_MOST_MEMORY_MIB, _MOST_DISK_MIB = 1 << 16, 1 << 20
_SLACK = 64 << 20
_EXPORT_ANEW = "The file was changed or damaged: export the snapshot again."


def export(directory: Path, out: BinaryIO) -> None:
    """Write the snapshot in a directory to a file, without the secrets that it holds.

    Raises FrozenMachineUnusable or OSError.
    """
    if (why := frozen_files.problem(directory)) is not None:
        raise FrozenMachineUnusable(f"The snapshot cannot be used: {why}.")
    facts = frozen_files.facts(directory)
    own = facts.get("snapshot")
    if isinstance(own, dict):  # whatever else is wrong with it, the importer says
        facts = {**facts, "snapshot": {**cast("dict[str, object]", own), "secrets": None}}
    frozen_archive.pack(directory, frozen_files.with_facts(directory, facts), out)


def _from_elsewhere(snapshot: Snapshot) -> Snapshot:
    """Return it as it may come from another server, without what this server itself must know.

    Registries are what an operator's maximum with @packages allows: its file has no say in them.
    """
    variables = without_placeholders(snapshot.variables)
    return replace(snapshot, secrets=NO_SECRETS, variables=variables, registries=None)


def bring(
    source: BinaryIO,
    shelf: Path,
    freezing: FreezingOf,
    *,
    snapshot_id: str,
    owner: str,
    expires_at: datetime,
) -> Snapshot:
    """Add what `export` wrote to the snapshots below `shelf`; return it.

    It is verified, and refused if this host could not resume it; nothing is left then. A running
    server notices it. Raises FrozenMachineUnusable, Unsupported, SetupIncomplete or OSError.
    """
    with workspace(shelf, 0o700) as work:
        made = work / "snapshot"
        made.mkdir(mode=0o700)
        frozen_archive.unpack(source, made, _bounds)
        with frozen_files.understanding():
            facts = frozen_files.facts(made)
            hypervisor = hypervisor_of(facts)
        machine = freezing(hypervisor).check(made).resources
        with frozen_files.understanding():
            imported = parse_snapshot(facts)
        _require_agreement(imported.resources, machine, made)
        kept = replace(
            _from_elsewhere(imported), id=snapshot_id, owner=owner, expires_at=expires_at
        )
        frozen_files.amend(made, {**facts, "snapshot": to_facts(kept)})
        target = shelf / snapshot_id
        if target.exists():
            raise FrozenMachineUnusable(f"There is a snapshot {snapshot_id} already.")
        place(made, target)
    return replace(kept, size=frozen_files.size(target))


def _require_agreement(described: Resources, machine: Resources, directory: Path) -> None:
    """Raise FrozenMachineUnusable unless description, machine and files are of one size.

    An environment counts as what the description says, and its machine takes what the files have.
    """
    if described != machine:
        raise FrozenMachineUnusable(
            f"It is described with {described}, but its machine has {machine}.", hint=_EXPORT_ANEW
        )
    for file, mib in ((RAM, machine.memory_mib), (SCRATCH, machine.disk_mib)):
        size = (directory / file).stat().st_size
        if size != mib << 20:
            raise FrozenMachineUnusable(
                f"Its {file} has {size} bytes, but its machine {mib} MiB.", hint=_EXPORT_ANEW
            )


def write_new(target: Path, directory: Path) -> int:
    """Export to a new file that only its owner may read; return its size.

    Raises FileExistsError, FrozenMachineUnusable or OSError; nothing is left then.
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
    """Return how large every file may be, by the size of the machine."""
    with frozen_files.understanding():
        facts = json.loads(manifest)["facts"]
        resources = cast("dict[str, object]", facts["resources"])
        memory, disk = resources["memory_mib"], resources["disk_mib"]
    if not (type(memory) is int and 0 < memory <= _MOST_MEMORY_MIB) or not (
        type(disk) is int and 0 < disk <= _MOST_DISK_MIB
    ):
        raise FrozenMachineUnusable("Its manifest describes a machine that is too large.")
    return {
        RAM: (memory << 20) + _SLACK,
        STATE: _SLACK,
        SCRATCH: (disk << 20) + _SLACK,
        IDENTITY: 1 << 20,
    }
