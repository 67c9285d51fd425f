# SPDX-License-Identifier: Apache-2.0
"""The seam between use cases and whatever runs machines: this machine, later a fleet.

`waggle.service` speaks only to these protocols. The embedded implementation is
`waggle.service.local.host`; tests bring a fake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.environment import Environment, MachineIdentity
from waggle.domain.errors import DiskFull, GuestMisbehaves
from waggle.domain.files.filesystem import FileSlice, FileVersion, Listing
from waggle.domain.files.search import Searched, SearchQuery
from waggle.domain.files.tree import Unpacked
from waggle.domain.network import DiskUse, ExposedPort, Usage
from waggle.domain.programs.execution import (
    Command,
    ExecutionResult,
    GuestUser,
    Left,
    Stream,
    Streams,
)

Progress = Callable[[float, str], Awaitable[None]]
"""Called with the share done (0 to 1) and what is happening, in a few words."""


async def no_progress(_share: float, _message: str) -> None:
    """For callers that do not watch."""


class Moment(Protocol):
    """An environment at one instant, from which others go on. Ended by whoever took it."""

    @property
    def directory(self) -> Path:
        """Where its files are."""
        ...


class Guest(Protocol):
    """A booted environment that can be worked in. Owns its machine and its SSH connection."""

    @property
    def ssh_port(self) -> int:
        """The TCP port on 127.0.0.1 that leads to the guest's SSH server."""
        ...

    @property
    def machine(self) -> MachineIdentity:
        """The process behind it, for recovery after a restart."""
        ...

    @property
    def directory(self) -> str:
        """Where programs start when a command does not say: the image's choice, else HOME."""
        ...

    @property
    def booted_from(self) -> dict[str, str]:
        """Digests of what it was booted from: image, kernel, kit."""
        ...

    async def home(self, user: GuestUser = GuestUser.SANDBOX) -> str:
        """The absolute path of a user's home directory. Raises GuestLost."""
        ...

    async def run(self, command: Command, into: Streams | None = None) -> ExecutionResult:
        """Run a command. On timeout or cancellation its whole process tree is killed.

        Its output goes `into` streams as it comes; without them the result holds it, cut to the
        command's `output_limit`.

        Raises GuestLost when the guest dies or stops answering; a failing command is a result.
        """
        ...

    async def left_running(self) -> Left:
        """What runs have left running, but not what is of a run that goes on. The guest tells.

        Raises GuestLost. Safe to cancel.
        """
        ...

    async def end_program(self, pid: int) -> bool:
        """Kill one of them, with its descendants; False when there is none. Raises GuestLost."""
        ...

    async def end_run(self, run_id: str) -> None:
        """Kill all that one run has left, of which something is left. Raises GuestLost."""
        ...

    async def diagnose(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Why a run that has just ended failed, from evidence; None where there is none.

        Does not raise; takes seconds at most. Safe to cancel.
        """
        ...

    async def write_file(
        self,
        path: str,
        data: bytes,
        mode: int | None = None,
        *,
        unless_changed: FileVersion | None = None,
    ) -> None:
        """Write a file as the user that programs run as, as write(2) would where one is there.

        A link is written through; owner, other names and, without `mode`, the permission bits stay.
        A new file gets DEFAULT_MODE; parents are made. Readers see the old content or the new one,
        but for files of other owners, with several names or with attributes. With `unless_changed`,
        only while the file is still that version. Raises FileRefused (permission, directory, disk
        full, changed) or GuestLost.
        """
        ...

    async def read_version(self, path: str, *, limit: int) -> tuple[bytes, FileVersion]:
        """Read a whole file of at most `limit` bytes, and what tells it from a changed one.

        Raises as `read_file` does.
        """
        ...

    async def read_file(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """Read at most `length` bytes from `offset` of a file that has at most `limit` bytes.

        Raises FileNotFound, FileRefused or TooLarge.
        """
        ...

    async def list_files(self, path: str) -> Listing:
        """List a directory. Raises FileNotFound or FileRefused."""
        ...

    async def search(self, query: SearchQuery) -> Searched:
        """Search names and contents, for SEARCH_SECONDS at most; links are not followed.

        Raises FileNotFound, FileRefused, InvalidArgument (the expression) or GuestLost.
        """
        ...

    async def pack_tree(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        """Write the records of `domain.tree` for a directory or file, without what globs exclude.

        At most MAX_TREE_BYTES and MAX_TREE_ENTRIES. The guest wrote them. Raises FileNotFound,
        FileRefused, InvalidArgument, TimedOut or GuestLost.
        """
        ...

    async def unpack_tree(self, path: str, records: bytes) -> Unpacked:
        """Make files of records below a directory, which is made. Not all of them may succeed.

        Each file appears whole or not at all. Raises FileRefused, TimedOut or GuestLost.
        """
        ...

    async def usage(self) -> Usage | None:
        """What it takes of the host, without asking the guest; None when its machine is gone."""
        ...

    @property
    def exposed(self) -> tuple[ExposedPort, ...]:
        """Its ports that can be reached from the server's 127.0.0.1, oldest first."""
        ...

    async def expose(self, port: int, local_port: int = 0) -> ExposedPort:
        """Have a TCP port of the guest's 127.0.0.1 on a port of the server's. Idempotent.

        On that local port if it is free, else on any. Until `unexpose`, a pause or `destroy`.
        Raises TooManyPorts, or GuestLost when it is destroyed.
        """
        ...

    def when_stalled(self, tell: Callable[[DiskFull | None], None]) -> None:
        """Call `tell` when its machine stops because the server's disk refuses a write, with why.

        And with None when it goes on, which it does by itself once the disk takes it. What is asked
        of the guest meanwhile waits, or fails with DiskFull.
        """
        ...

    def when_misbehaves(self, tell: Callable[[GuestMisbehaves], None]) -> None:
        """Call `tell` when what answers in it was given up for its conduct, for good."""
        ...

    def when_visited(self, tell: Callable[[], None]) -> None:
        """Call `tell` now and then while somebody is connected to an exposed port."""
        ...

    async def unexpose(self, port: int) -> bool:
        """Close it with all its connections; say whether it was exposed."""
        ...

    async def answers(self, port: int, seconds: float) -> bool:
        """Whether something listens on that port of the guest, or does within so many seconds."""
        ...

    async def pause(self) -> None:
        """Stop its processors; its memory stays. Connections to it and exposed ports are closed.

        Idempotent. Raises GuestLost.
        """
        ...

    async def unpause(self) -> None:
        """Let it go on, with the right time. Idempotent. Raises GuestLost."""
        ...

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """What it is at this moment, for the length of a block; it goes on meanwhile.

        Connections are not part of it: what runs over one finds it broken in a copy. Raises
        Unsupported, BootFailed, GuestLost, DiskFull or SnapshotFailed.
        """
        ...

    async def hibernate(self) -> None:
        """Keep its state on the disk for `EnvironmentHost.wake`, and end it.

        When that fails, it goes on. Finishes when cancelled. Raises Unsupported, BootFailed,
        GuestLost, DiskFull or SnapshotFailed.
        """
        ...

    async def wait_dead(self) -> str:
        """Return when the machine is dead, with the cause. Safe to cancel."""
        ...

    async def destroy(self) -> None:
        """Stop the machine and remove its files and port. Idempotent; finishes when cancelled."""
        ...


class EnvironmentHost(Protocol):
    """Something that can bring environments up."""

    async def create(
        self, environment: Environment, progress: Progress, moment: Moment | None = None
    ) -> Guest:
        """Boot the environment, or have it go on from a moment, and connect to it.

        A failed or cancelled create leaves nothing. Raises ImageMissing, ImageCorrupt, NoPorts,
        BootFailed, SetupIncomplete, TimedOut, Unsupported, MomentUnusable or DiskFull.
        """
        ...

    def require_disk(self) -> None:
        """Raise DiskFull when it has too little room for another environment, or a copy of one."""
        ...

    async def wake(self, environment: Environment, progress: Progress) -> Guest:
        """Have it go on from where it hibernated; when that fails, it still hibernates.

        Raises as `create` does.
        """
        ...

    async def salvage(self, environment: Environment) -> bool:
        """End what an earlier server left running of it; whether it can be woken.

        Idempotent. Not for one that this server runs.
        """
        ...

    @property
    def can_freeze(self) -> bool:
        """Whether guests have moments and can hibernate here."""
        ...

    async def discard(self, environment: Environment) -> None:
        """Remove what an earlier server left of this environment: process, files. Idempotent."""
        ...

    async def disk_use(self) -> DiskUse:
        """What environments take of its disk, those that hibernate included. Raises OSError."""
        ...

    async def not_ready(self) -> str | None:
        """Why a create would fail right now, or None."""
        ...
