# SPDX-License-Identifier: Apache-2.0
"""The names of the hypervisors, and what the machines of one can, in words. Pure.

The settings accept these names; `waggle.app.hypervisors` has the adapter of each. Everything else
asks an adapter for its `Capabilities`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Generic, Protocol, TypeGuard, TypeVar

from waggle.domain.errors import Unsupported
from waggle.domain.machine import Capabilities, FreezingHypervisor, Hypervisor


class HypervisorName(StrEnum):
    """In the order in which `auto` prefers them, except for those that are used only by name."""

    KRUN = "krun"
    FIRECRACKER = "firecracker"
    CLOUD_HYPERVISOR = "cloud-hypervisor"
    QEMU = "qemu"


BEFORE_NAMES: Final = HypervisorName.QEMU
"""The hypervisor of frozen machines that name none: it was the only one that could freeze."""
_NAME = re.compile(r"[a-z][a-z-]{0,31}")


def parse_hypervisor(name: object) -> str:
    """Return a name from a file; it may be of another waggle. Raises ValueError for no name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("It names no hypervisor.")
    return name


def can_freeze(hypervisor: Hypervisor) -> TypeGuard[FreezingHypervisor]:
    """Whether it freezes machines."""
    return hypervisor.capabilities.freezes


def in_words(capabilities: Capabilities) -> str:
    """Say what its machines can, for operators: the end of a sentence about them."""
    can = ["can be frozen (snapshots, forks, templates, pauses to disk)"]
    if not capabilities.freezes:
        can = ["cannot be frozen (no snapshots, forks, templates, pauses to disk)"]
    elif not capabilities.keeps_connections:
        can.append("lose their connections then")
    if capabilities.stops_when_full:
        can.append("wait while the disk is full")
    if capabilities.containers:
        can.append("run containers")
    return ", ".join(can)


class Named(Protocol):
    """What belongs to one hypervisor."""

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor."""
        ...


T = TypeVar("T", bound=Named)


class ByHypervisor(Generic[T]):
    """What belongs to every hypervisor of a server, in the operator's order; at least one.

    New environments get the first, or the first that can what they ask for; every one keeps its.
    """

    def __init__(self, *parts: T) -> None:
        self._parts: Mapping[str, T] = {one.hypervisor.name: one for one in parts}
        self.first = parts[0]

    @property
    def all(self) -> tuple[T, ...]:
        """All, in order."""
        return tuple(self._parts.values())

    @property
    def freezing(self) -> T | None:
        """The first whose machines can be frozen."""
        return next((one for one in self.all if can_freeze(one.hypervisor)), None)

    def __contains__(self, name: str) -> bool:
        return not name or name in self._parts

    def of(self, name: str) -> T:
        """Return that of a hypervisor; the first for an empty name. Raises Unsupported."""
        if not name:
            return self.first
        try:
            return self._parts[name]
        except KeyError:
            raise Unsupported(
                f"It needs the hypervisor {name}, which this server does not run.",
                hint=f"The operator can add {name} to WAGGLE_HYPERVISOR and restart the server. "
                "If that is auto, 'waggle doctor' says what it lacks.",
            ) from None

    def for_new(self, *, snapshots: bool) -> T:
        """Return that of a new environment. Raises Unsupported."""
        found = self.freezing if snapshots else self.first
        if found is None:
            raise Unsupported(
                f"No hypervisor of this server can take snapshots: it runs {self.names}.",
                hint=f"Leave out snapshots. {CHOOSE_ONE}",
            )
        return found

    @property
    def names(self) -> str:
        """Their names, for a text."""
        return ", ".join(self._parts)


CHOOSE_ONE: Final = "The operator can add one that can to WAGGLE_HYPERVISOR, such as qemu."
