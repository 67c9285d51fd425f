# SPDX-License-Identifier: Apache-2.0
"""The seam between use cases and the place where machines run: this host, later a fleet.

`waggle.service` calls only these protocols. The embedded implementation is
`waggle.service.local.host`; tests bring a fake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.environment import Environment
from waggle.domain.errors import Busy, DiskFull, GuestMisbehaves, SnapshotFailed
from waggle.domain.exposure import ByteStream, Listeners, Visit
from waggle.domain.files.guest_files import FilesOfGuest
from waggle.domain.guest_agent import HealthOfGuest
from waggle.domain.machine import VmmProcess
from waggle.domain.network.guest_network import NetworkOfGuest
from waggle.domain.programs import Command, ExecutionResult, GuestUser, Left
from waggle.domain.programs.guest_job import JobsOfGuest
from waggle.domain.use import DiskUse, ResourceUse

Progress = Callable[[float, str], Awaitable[None]]
"""Called with the share done (0 to 1) and what is happening, in a few words."""


async def no_progress(_share: float, _message: str) -> None:
    """Ignore progress, for callers that do not watch it."""


class NoMemory(SnapshotFailed):
    """There is too little memory to freeze a machine now. Nothing was disturbed."""

    default_hint = (
        "Try again later, or destroy environments that are no longer needed; the operator can give "
        "the server more memory."
    )


class NoTurn(Busy):
    """Other machines are being frozen, and too many wait for their turn. Nothing was disturbed."""

    default_hint = "Try again in a minute."


UNDISTURBED = (NoMemory, NoTurn)
"""What is raised before anything is done to a machine that is to be frozen."""


IN_TURN: Final = 2.0
"""Seconds for which a machine that has its turn waits for what others do with it.

Few have a turn at once, and a guest or its owner can make that last: a restart waits for a boot.
What a server does itself is done sooner.
"""


class Turn(Protocol):
    """The turn of one machine to be frozen, with the memory for that; ended by who waited."""

    def copied(self) -> None:
        """Let the next one have its turn: the machine's memory is copied. Idempotent."""
        ...


class FrozenMachine(Protocol):
    """A frozen machine, from which copies resume. The caller that froze it ends it."""

    @property
    def directory(self) -> Path:
        """The directory of its files."""
        ...


class Guest(FilesOfGuest, JobsOfGuest, NetworkOfGuest, HealthOfGuest, Protocol):
    """A booted environment that can be worked in. Owns its machine and its SSH connection."""

    @property
    def ssh_port(self) -> int:
        """The TCP port on 127.0.0.1 that leads to the guest's SSH server."""
        ...

    @property
    def machine(self) -> VmmProcess:
        """The VMM, for recovery after a restart."""
        ...

    @property
    def directory(self) -> str:
        """Where programs start when a command does not say: the image's choice, else HOME."""
        ...

    @property
    def booted_from(self) -> dict[str, str]:
        """Digests of the image, kernel and kit that it booted from."""
        ...

    async def home(self, user: GuestUser = GuestUser.SANDBOX) -> str:
        """Return the absolute path of a user's home directory. Raises GuestLost."""
        ...

    async def left_running(self) -> Left:
        """Return what ended runs have left, as the guest says. Raises GuestLost. Safe to cancel."""
        ...

    async def end_program(self, pid: int) -> bool:
        """Kill a left program and its descendants; False if there is none. Raises GuestLost."""
        ...

    async def end_run(self, run_id: str) -> None:
        """Kill all programs that a run has left; there must be one. Raises GuestLost."""
        ...

    async def diagnose(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Return why a run that has just ended failed, or None when there is no evidence.

        Of a run that did not fail, what it was refused for the first time. Does not raise; takes
        seconds at most. Safe to cancel.
        """
        ...

    async def resource_use(self) -> ResourceUse | None:
        """Return its use of the host without asking the guest; None if its machine is gone."""
        ...

    def when_stalled(self, notify: Callable[[DiskFull | None], None], /) -> None:
        """Call `notify` with the cause when a write that the host's disk refuses stops the machine.

        And with None when it resumes, which happens automatically once the disk accepts the write.
        Requests to the guest wait meanwhile, or fail with DiskFull.
        """
        ...

    def when_misbehaves(self, notify: Callable[[GuestMisbehaves], None], /) -> None:
        """Call `notify` when the guest is no longer used because it misbehaved."""
        ...

    async def connect_to(self, port: int) -> ByteStream | None:
        """Connect to a TCP port of its 127.0.0.1, or else of its ::1.

        None if nothing answers there within 10 s, or too many connections are unanswered already.
        The caller aborts the stream. Safe to cancel.
        """
        ...

    async def answers(self, port: int, seconds: float) -> bool:
        """Whether a program listens on that port of the guest, or does so within `seconds`."""
        ...

    async def pause(self) -> None:
        """Stop its processors, and close its connections; its memory stays.

        Idempotent. Raises GuestLost.
        """
        ...

    async def unpause(self) -> None:
        """Resume it, with the right time. Idempotent. Raises GuestLost."""
        ...

    def turn_to_freeze(self) -> AbstractAsyncContextManager[Turn]:
        """Wait until it may be frozen, while it can be used; hold that for the length of a block.

        In a bounded time. Raises Unsupported, DiskFull, NoMemory or NoTurn. Safe to cancel.
        """
        ...

    def freeze(self, turn: Turn) -> AbstractAsyncContextManager[FrozenMachine]:
        """Freeze the machine for the length of a block; the environment continues meanwhile.

        In its turn, which `turn_to_freeze` gave. Connections are not part of it: a program that
        uses one finds it broken in a copy. Raises Unsupported, BootFailed, GuestLost, DiskFull or
        SnapshotFailed, or Busy if others use the machine for more than IN_TURN.
        """
        ...

    async def pause_to_disk(self, turn: Turn) -> None:
        """Pause it to disk for `EnvironmentHost.resume`, and end its machine.

        In its turn, which `turn_to_freeze` gave. When that fails, it may stay paused until
        `unpause`; after an error of UNDISTURBED it is as it was. Finishes when cancelled. Raises
        Unsupported, BootFailed, GuestLost, DiskFull, SnapshotFailed or TimedOut.
        """
        ...

    async def end_machine(self, grace: float) -> bool:
        """End its machine, but keep its files and port, for `EnvironmentHost.restart`.

        Programs have `grace` seconds, and the disk is written whole. Returns whether it ended so;
        in a bounded time, or when cancelled, it is killed. Raises TimedOut if it cannot be.
        """
        ...

    async def wait_dead(self) -> str:
        """Wait until the machine is dead; return the cause. Safe to cancel."""
        ...

    async def destroy(self) -> None:
        """Stop the machine; remove its files and port. Idempotent; finishes when cancelled."""
        ...


class EnvironmentHost(Protocol):
    """Brings environments up."""

    async def create(
        self,
        environment: Environment,
        progress: Progress,
        frozen_machine: FrozenMachine | None = None,
    ) -> Guest:
        """Boot the environment, or resume it from a frozen machine, and connect to it.

        A failed or cancelled create leaves nothing. Raises ImageMissing, ImageCorrupt, NoPorts,
        BootFailed, SetupIncomplete, TimedOut, Unsupported, FrozenMachineUnusable or DiskFull.
        """
        ...

    def require_disk(self) -> None:
        """Raise DiskFull when it has too little room for another environment or a copy."""
        ...

    async def resume(self, environment: Environment, progress: Progress) -> Guest:
        """Resume an environment that is paused to disk; when that fails, it stays paused.

        Raises as `create` does.
        """
        ...

    def require_restart(self, guest: Guest, /) -> None:
        """Raise DiskFull or BootFailed unless a machine can boot from that guest's disk."""
        ...

    async def restart(self, environment: Environment, guest: Guest, progress: Progress, /) -> Guest:
        """Boot another machine from the disk of a guest whose machine was ended, the same to users.

        If this fails, the caller destroys the given guest. Raises as `create` does.
        """
        ...

    async def recover(self, environment: Environment) -> bool:
        """End what an earlier server left running of it; return whether it can be resumed.

        Idempotent. Not for an environment that this server runs.
        """
        ...

    def listeners(self, visit: Visit, /) -> Listeners:
        """Return listeners for one environment, whose connections call `visit`. Close them."""
        ...

    def hypervisor_for(self, *, snapshots: bool) -> str:
        """Return the hypervisor to give to a new environment, which keeps it.

        With `snapshots`, one that can freeze guests. Raises Unsupported, with the next step.
        """
        ...

    def can_freeze(self, hypervisor: str = "", /) -> bool:
        """Whether guests of that hypervisor can be frozen and paused to disk here.

        Without a name, those of new environments.
        """
        ...

    async def discard(self, environment: Environment) -> None:
        """Remove the process and files that an earlier server left of it. Idempotent."""
        ...

    async def disk_use(self) -> DiskUse:
        """Return the disk use of environments, also of those paused to disk. Raises OSError."""
        ...

    async def not_ready(self) -> str | None:
        """Return why a create would fail right now, or None."""
        ...
