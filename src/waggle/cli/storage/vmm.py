# SPDX-License-Identifier: Apache-2.0
"""`waggle vmm ls|add|rm|check`: on files alone. A running server notices the changes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from waggle.cli.progress import print_json, print_table, say, working
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import InvalidArgument
from waggle.domain.machine import VmmProcess
from waggle.infra.shared.confined import identify
from waggle.infra.store.environments import SqliteStore
from waggle.infra.store.frozen_files import MANIFEST
from waggle.infra.vmm.binaries import BinaryStore, Installed
from waggle.infra.vmm.candidate import again
from waggle.infra.vmm.offered import MOST_BYTES
from waggle.infra.vmm.version import TITLES, UNTESTED_MEND, Version, Vmm, untested

_TABLE_WIDTH = 120
_COLUMNS = ("vmm", "version", "jailer", "added (UTC)", "state")
_NOTHING = "No programs. 'waggle vmm add PATH' adds Firecracker or Cloud Hypervisor."
_NAMED = 16
"""Digits of a digest by which a manifest names a program, at least."""
_MANIFEST_BYTES = 1 << 20
_FROZEN = {
    "snapshot": "snapshots/*",
    "environment that is paused": "environments/*/frozen",
}
"""Where a data directory has manifests, by what they are of."""


def store(places: Places) -> BinaryStore:
    """Return the store of an installation, for a command that root may run for its user."""
    owners: list[int] = []
    with contextlib.suppress(OSError):
        owners.append(places.data.stat().st_uid)
    return BinaryStore(places.binaries, owners=owners)


def ls(*, as_json: bool) -> None:
    """Print the programs as a table, or as a JSON list."""
    _show(store(Places.of(load())).installed(), as_json=as_json)


def _show(installed: tuple[Installed, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([_row(one) for one in installed])
        return
    cells: list[tuple[str, ...]] = []
    for one in installed:
        binary = one.binary
        jailer = "yes" if binary and binary.jailer else "no"
        added = binary.added[:16] if binary else ""
        cells.append((one.vmm, str(one.version), jailer, added, _state(one)))
    print_table(_COLUMNS, cells, _NOTHING, _TABLE_WIDTH)


def _state(one: Installed) -> str:
    return one.problem or ", ".join(filter(None, ["usable", untested(one.vmm, one.version)]))


def _row(one: Installed) -> dict[str, Any]:
    row = {"vmm": one.vmm.value, "version": str(one.version), "arch": one.arch}
    row["problem"] = one.problem
    row["warning"] = untested(one.vmm, one.version)
    if (binary := one.binary) is None:
        return row
    return {
        **row,
        "path": str(binary.path),
        "sha256": binary.digest,
        "jailer": str(binary.jailer) if binary.jailer else None,
        "added": binary.added,
        "source": binary.source,
        "unasked": binary.unasked,
    }


def add(path: Path, jailer: Path | None, *, as_json: bool) -> None:
    """Add a program and print its name and version. Raises as `BinaryStore.add`."""
    with working(f"Adding {path}"):
        binary, new = anyio.run(store(Places.of(load())).add, path, jailer)
    if as_json:
        print_json(_row(Installed(binary.vmm, binary.version, binary.arch, binary, "")))
        return
    sys.stdout.write(f"{binary.vmm} {binary.version}\n")
    beside = " with its jailer" if binary.jailer else ""
    say(f"{TITLES[binary.vmm]} {binary.version}{beside}{'' if new else ' was here already'}.")
    if newer := untested(binary.vmm, binary.version):
        say(f"This version is {newer}. {UNTESTED_MEND}")
    if binary.unasked:
        say(f"Its API was not asked for its version: {binary.unasked}")
    if binary.vmm is Vmm.CLOUD_HYPERVISOR:
        say("Name it in WAGGLE_HYPERVISOR, and run 'waggle setup': it makes its guests' kernel.")


def check(*, as_json: bool) -> int:
    """Verify all programs, run them again, and print them; return 1 if one cannot be used."""
    with working("Running the programs"):
        checked = anyio.run(_again, store(Places.of(load())).installed())
    _show(checked, as_json=as_json)
    return 1 if any(one.problem for one in checked) else 0


async def _again(installed: tuple[Installed, ...]) -> tuple[Installed, ...]:
    return tuple([await again(one) for one in installed])


def rm(name: str, version: str, *, force: bool) -> None:
    """Remove a version and print it. Raises InvalidArgument, NotFound, Busy, SetupIncomplete."""
    try:
        wanted = Version.parse(version)
    except ValueError as error:
        raise InvalidArgument(
            f"{version[:60]!r} is no version.", hint="See 'waggle vmm ls'."
        ) from error
    places = Places.of(load())
    needs: Callable[[str], str] = (lambda _: "") if force else lambda digest: needed(places, digest)
    store(places).remove(Vmm(name), wanted, needs)
    sys.stdout.write(f"{name} {wanted}\n")


def needed(places: Places, digest: str) -> str:
    """Say what needs the program with this digest; empty when nothing does.

    A manifest names the program in its facts; a running environment is known by its process.
    """
    parts: list[str] = []
    for what, pattern in _FROZEN.items():
        found = _made_by(digest, places.data, pattern)
        found += _made_by(digest, places.stdio, f"*/{pattern}")
        parts += _counted(found, what)
    parts += _counted(_made_by(digest, places.templates, "*"), "template")
    states = [places.state, *sorted(places.stdio.glob(f"*/{places.state.name}"))]
    running = [one for state in states for one in anyio.run(_running, state, digest)]
    parts += _counted(running, "running environment")
    return ", ".join(parts)


def _counted(names: list[str], what: str) -> list[str]:
    if not names:
        return []
    most = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    return [f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({most})"]


def _made_by(digest: str, root: Path, pattern: str) -> list[str]:
    """Return the names of the frozen machines whose manifest names the program."""
    return [
        manifest.parent.name if manifest.parent.name != "frozen" else manifest.parents[1].name
        for manifest in sorted(root.glob(f"{pattern}/{MANIFEST}"))
        if digest[:_NAMED] in _text(manifest)
    ]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(_MANIFEST_BYTES).decode("utf-8", "replace")
    return ""


async def _running(state: Path, digest: str) -> list[str]:
    """Return the environments of a server whose machine's process runs the program."""
    if not state.exists():
        return []
    records = await SqliteStore.open(state)
    try:
        unfinished = await records.unfinished()
    finally:
        await records.aclose()
    return [one.id for one in unfinished if one.machine and _program(one.machine) == digest]


def _program(process: VmmProcess) -> str:
    """Return the digest of a running process's program; empty when it has ended."""
    with contextlib.suppress(OSError):
        held = os.open(f"/proc/{process.pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(held, "rb") as file:
            if identify(process.pid) == process and os.fstat(held).st_size <= MOST_BYTES:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
