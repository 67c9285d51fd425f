# SPDX-License-Identifier: Apache-2.0
"""Facts of a frozen machine's manifest, and the frozen machines that are held in memory.

Used by `Freezer` and `templates`. Facts name files without their directories, so that a frozen
machine can move to another host that has the same files. `Loaded` lets copies share memory and
start without reading it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from waggle.domain.hypervisor import BEFORE_NAMES, parse_hypervisor
from waggle.domain.image import BootImage
from waggle.domain.machine import FrozenState, Resources
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.local.blueprint import MachineParts
from waggle.tasks import finish


def to_facts(parts: MachineParts, hypervisor: str, vmm: Mapping[str, str]) -> dict[str, object]:
    """Return the facts for a manifest. `vmm` is what the state is locked to."""
    image = parts.image
    return {
        "hypervisor": hypervisor,
        "runtime": parts.runtime.value,
        "image": {
            "reference": image.reference,
            "digest": image.digest,
            "disk": image.disk.name,
            "variables": dict(image.variables),
            "user": image.user,
            "directory": image.directory,
            "shell": image.shell,
        },
        "kernel": parts.kernel.name,
        "kit": parts.kit.name,
        "resources": {
            "cpus": parts.resources.cpus,
            "memory_mib": parts.resources.memory_mib,
            "disk_mib": parts.resources.disk_mib,
        },
        "vmm": dict(vmm),
    }


@dataclass(frozen=True, slots=True)
class Shelves:
    """The directories of disks, kernels and kits."""

    disks: Path
    kernels: Path
    kits: Path


def from_facts(facts: Mapping[str, object], shelves: Shelves) -> MachineParts:
    """Undo `to_facts`. Raises KeyError, TypeError, AttributeError or ValueError."""
    image = cast("dict[str, object]", facts["image"])
    resources = cast("dict[str, int]", facts["resources"])
    variables = cast("dict[str, object]", image["variables"])
    return MachineParts(
        RuntimeName(str(facts["runtime"])),
        BootImage(
            reference=str(image["reference"]),
            digest=str(image["digest"]),
            disk=shelves.disks / _plain(image["disk"]),
            variables={str(name): str(value) for name, value in variables.items()},
            user=str(image["user"]),
            directory=str(image["directory"]),
            shell=str(image["shell"]),
        ),
        shelves.kernels / _plain(facts["kernel"]),
        shelves.kits / _plain(facts["kit"]),
        Resources(**{name: int(resources[name]) for name in ("cpus", "memory_mib", "disk_mib")}),
    )


def hypervisor_of(facts: Mapping[str, object]) -> str:
    """Return the name of the hypervisor that froze it. Raises ValueError."""
    return parse_hypervisor(facts.get("hypervisor", BEFORE_NAMES))


def vmm_of(facts: Mapping[str, object]) -> dict[str, str]:
    """Return what the state is locked to. Raises as `from_facts` does."""
    vmm = cast("dict[object, object]", facts["vmm"])
    return {str(name): str(value) for name, value in vmm.items()}


def _plain(name: object) -> str:
    text = str(name)
    if "/" in text or text in ("", ".", ".."):
        raise ValueError(f"{text!r} is not a file's name")
    return text


KEPT = 3
"""How many stay without a user. One is as large as what its machine had written: 80 to 200 MB."""


@dataclass(slots=True)
class _Entry:
    frozen: FrozenState | None = None
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Loaded:
    """Frozen machines by directory. Of those without a user, the ones used last stay.

    `close` it when no machine will be started any more.
    """

    def __init__(self, *, keep: int = KEPT) -> None:
        self._keep = keep
        self._entries: dict[tuple[Path, int], _Entry] = {}

    @contextlib.asynccontextmanager
    async def using(
        self, directory: Path, load: Callable[[], FrozenState]
    ) -> AsyncGenerator[FrozenState]:
        """Hold the frozen machine of a directory; `load` reads it, once. Raises OSError."""
        key = directory, directory.stat().st_ino
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry  # the last in order was used last
        entry.users += 1
        try:
            async with entry.turn:
                frozen = entry.frozen or await finish(self._read(entry, load))
            yield frozen
        finally:
            entry.users -= 1
            self._trim(self._keep)

    async def _read(self, entry: _Entry, load: Callable[[], FrozenState]) -> FrozenState:
        """Load into the entry, which closes it later even if its first user has gone."""
        entry.frozen = await asyncio.to_thread(load)
        return entry.frozen

    def _trim(self, keep: int) -> None:
        idle = [key for key, entry in self._entries.items() if not entry.users]
        for key in idle[: max(0, len(idle) - keep)]:
            if (frozen := self._entries.pop(key).frozen) is not None:
                frozen.close()

    def close(self) -> None:
        """Close all that have no user."""
        self._trim(0)


async def closing_with(
    stack: contextlib.ExitStack | contextlib.AsyncExitStack, work: Awaitable[FrozenState]
) -> FrozenState:
    """Return the result of `work`, to be closed with the stack. Run it with `finish`.

    A caller that is cancelled meanwhile never gets the result, but its stack closes it.
    """
    frozen = await work
    stack.callback(frozen.close)
    return frozen
