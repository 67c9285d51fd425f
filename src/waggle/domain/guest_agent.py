# SPDX-License-Identifier: Apache-2.0
"""What a guest says of itself, and the agent that says it.

The guest is not trusted: a report is its own words, of bounded size, and may be wrong in every
number. Nothing is decided by one but what to tell its owner. `infra.guest.agent` implements the
protocol over the machine's channel; services and diagnoses use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GuestFilesystem:
    """A mounted file system, in bytes."""

    mount_point: str
    total: int
    used: int


@dataclass(frozen=True, slots=True)
class RunsPrograms:
    """A user, and how many processes of its there are."""

    name: str
    processes: int


@dataclass(frozen=True, slots=True)
class GuestLoad:
    """How busy a guest is.

    Memory is in bytes, `load` the average of the last minute, `cpu_seconds` what its processors
    have worked since the start. `stalled` is the percentage of the last ten seconds in which some
    program waited for memory, or None where the kernel does not say.
    """

    memory_total: int
    memory_available: int
    load: float
    processes: int
    cpu_seconds: float
    stalled: float | None


@dataclass(frozen=True, slots=True)
class GuestReport:
    """What a guest says of itself now. `clock` is nanoseconds since 1970, `uptime` seconds."""

    system: str
    kernel: str
    hostname: str
    uptime: float
    clock: int
    load: GuestLoad
    filesystems: tuple[GuestFilesystem, ...]
    addresses: tuple[str, ...]
    users: tuple[RunsPrograms, ...]


@dataclass(frozen=True, slots=True)
class GuestTotals:
    """The sums over all guests that answered, in bytes and numbers; `lost` did not answer."""

    answering: int = 0
    lost: int = 0
    memory_total: int = 0
    memory_available: int = 0
    processes: int = 0
    load: float = 0.0
    stalled: int = 0
    """Guests in which programs waited for memory for over a tenth of the last ten seconds."""


class GuestAgent(Protocol):
    """The agent in one guest. It works where SSH does not. Every call is bounded in time.

    All raise GuestLost when no fit answer comes, are idempotent, and may be cancelled.
    """

    async def ping(self, seconds: float | None = None) -> None:
        """Return when the agent has answered; `seconds` is how long that may take."""
        ...

    async def report(self) -> GuestReport:
        """Ask for everything."""
        ...

    async def load(self) -> GuestLoad:
        """Ask how busy the guest is. Quick, and works when it can start no process."""
        ...

    async def clock(self) -> int:
        """Ask for the guest's time, in nanoseconds since 1970."""
        ...


class HealthOfGuest(Protocol):
    """The part of `host.Guest` that says how the guest is; nothing of it is sure."""

    async def report(self) -> GuestReport | None:
        """Return what the guest says of itself, within seconds.

        None if its agent answers, but not that, since its memory is full for instance, or if its
        machine is paused or copied just now. Raises GuestLost if the agent does not answer, which
        has another begin.
        """
        ...

    async def load(self) -> GuestLoad | None:
        """Return how busy the guest says it is. Otherwise as `report`."""
        ...
