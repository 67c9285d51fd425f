# SPDX-License-Identifier: Apache-2.0
"""A VMM and its guard (`starter`): two processes that end together and are used as one.

The adapters start it. Its identity and its signals are the VMM's, which the guard reports; its
status comes from the guard, which the server can reap. Knows no API.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from waggle.domain.errors import BootFailed
from waggle.infra.guest import door
from waggle.infra.guest.frozen import let_go
from waggle.infra.shared.confined import (
    MAX_DESCRIPTORS,
    ConfinedProcess,
    Enclose,
    identify,
    kvm_group,
    python_argv,
)
from waggle.infra.vmm.starter import MAX_PLAN

if TYPE_CHECKING:
    from waggle.infra.vmm.kept import Identity
    from waggle.infra.vmm.starter import File, Plan

STARTER: Final = "waggle.infra.vmm.starter"
_GUARD_SECONDS = 2.0
"""How long a guard that has started no VMM yet may take to end."""
_MAX_REPORT = 32
_PAUSE = 0.003
_SHARE = 0.1
"""Of the time that a VMM has taken to listen, to wait until it is tried again."""


@dataclass(frozen=True, slots=True)
class Start:
    """What is started. `arguments` are the VMM's, with the paths that it sees.

    `jailer` confines it, or None for our own confinement. Both programs must still be the files
    with these identities, see `kept.Identity`; without one, whatever has the name. `files` are
    those that it finds at its root, open here, and whether it may write them, besides `texts` that
    are made there. The root is mounted over `directory`, only for the VMM. `memory` becomes its
    standard input, `messages` its output; `run_mib` is how much its /run may hold.
    """

    program: Path
    arguments: tuple[str, ...]
    jailer: Path | None
    id: str
    files: dict[str, tuple[int, bool]]
    directory: Path
    run_mib: int
    memory: int
    messages: int
    uid: int | None
    background: bool = False
    identity: Identity = ()
    jailer_identity: Identity = ()
    texts: Mapping[str, str] = field(default_factory=dict[str, str])

    def plan(self, parent: int) -> Plan:
        """Return what the starter receives, besides two descriptors. Raises OSError."""
        group = kvm_group()
        return {
            "program": os.path.realpath(self.program),
            "identity": self.identity,
            "arguments": [*self.arguments],
            "jailer": os.path.realpath(self.jailer) if self.jailer else "",
            "jailer_identity": self.jailer_identity,
            "id": "".join(c if c.isascii() and c.isalnum() else "-" for c in self.id)[:60] or "vm",
            "files": [_file(name, *file) for name, file in self.files.items()],
            "texts": {**self.texts},
            "directory": str(self.directory.absolute()),
            "maps_file": _has_name(self.memory),
            "run_mib": self.run_mib,
            "descriptors": MAX_DESCRIPTORS,
            "uid": -1 if self.uid is None else self.uid,
            "groups": [group] if group >= 0 else [],
            "parent": parent,
        }


def _file(name: str, descriptor: int, writable: bool) -> File:
    about = os.fstat(descriptor)
    return {
        "name": name,
        "path": str(Path(f"/proc/self/fd/{descriptor}").readlink()),
        "identity": (about.st_dev, about.st_ino),
        "read_only": not writable,
    }


def _has_name(descriptor: int) -> bool:
    """Whether it is a file of the host's, and not one in memory."""
    about = os.fstat(descriptor)
    return stat.S_ISREG(about.st_mode) and about.st_nlink > 0


class GuardedProcess(ConfinedProcess):
    """A VMM below its guard. `launch`, `until_known`, `proceed`; `wait` and `kill` are for both.

    `close` it once it has ended. Instead of a launch it may wait first, and `begin` later.
    """

    _report: socket.socket
    _vmm: int | None = None
    """A descriptor of the VMM's process, and `_number` is its number."""
    _number = 0
    run = -1
    """The directory that the VMM sees as /run, once it is known; open until `close`."""

    @classmethod
    def waiting(cls, stderr: int = subprocess.DEVNULL, *, background: bool = False) -> Self:
        """Start a guard that waits for a machine. Raises SetupIncomplete, OSError."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            report, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(report.close)
            theirs.callback(other.close)
            report.setblocking(False)
            process = cls.start(
                python_argv(STARTER),
                descriptors=(),
                stdin=other.fileno(),
                stderr=stderr,
                background=background,
            )
            process._report = report  # noqa: SLF001  (its own)
            undo.pop_all()
            return process

    @classmethod
    def launch(cls, start: Start, enclose: Enclose | None = None) -> Self:
        """Start the guard, which starts the VMM. The caller closes the descriptors of `start`.

        `enclose` limits both. A guard that has ended already is returned, too: `until_known` tells,
        and its complaint is among the messages. Raises SetupIncomplete, BootFailed, OSError.
        """
        process = cls.waiting(start.messages, background=start.background)
        try:
            with contextlib.suppress(BrokenPipeError):
                process.begin(start, enclose)
        except BaseException:
            process.abandon()
            raise
        return process

    def begin(self, start: Start, enclose: Enclose | None = None) -> None:
        """Let the guard start the VMM; see `launch`. It is limited first.

        Raises BrokenPipeError when the guard has ended: nothing was started then.
        """
        if not self.is_alive:
            raise BrokenPipeError("the guard has ended")
        plan = marshal.dumps({**start.plan(os.getpid())})
        if len(plan) > MAX_PLAN:
            raise BootFailed("The configuration of the machine's process is too long.")
        if enclose is not None:
            self.enclose(enclose)
        socket.send_fds(self._report, [plan], [start.memory, start.messages])

    def abandon(self) -> None:
        """End a guard that has begun nothing, and release what there is of it. Idempotent."""
        if self.is_alive:
            self._child.kill()
            super()._reap()
        self.close()

    async def until_known(self) -> bool:
        """Return once `identity` and `run` are the VMM's; False when the guard ended instead.

        The caller bounds the time. Safe to cancel, and to call again.
        """
        loop = asyncio.get_running_loop()
        while self._vmm is None:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._report, _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self._report)
            if not self._hear():
                return False
        found = identify(self._number)
        try:
            signal.pidfd_send_signal(self._vmm, 0)
        except ProcessLookupError:  # it has ended already, and its number may be another's
            return False
        self.identity = found or self.identity
        return True

    def _hear(self) -> bool:
        """Take what the guard reports; return whether it did."""
        try:
            said, descriptors, _, _ = socket.recv_fds(self._report, _MAX_REPORT, 2)
        except (BlockingIOError, ConnectionError):  # it ended before it read anything
            return False
        if not said or len(descriptors) != 2:
            return False
        self.run, self._vmm = descriptors
        self._number = int(said)
        return True

    def proceed(self) -> None:
        """Let the VMM begin: whatever it may connect to is there. It waits for that. Once."""
        with contextlib.suppress(OSError):  # its guard has ended
            self._report.send(b".")

    async def dial(self, name: str) -> socket.socket:
        """Connect to a socket in its /run; see `client.Dial`. What answers must be the VMM.

        The caller closes it. Raises OSError.
        """
        return await door.dial(self.run, name, pid=self.identity.pid)

    async def until_listening(self, name: str) -> None:
        """Return once `dial` works, which takes some milliseconds. The caller bounds the time.

        The longer it takes the less often it is tried: on a slow host trying keeps it from working.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                # A look takes a tenth of what a dial does.
                os.stat(name, dir_fd=self.run, follow_symlinks=False)
                (await self.dial(name)).close()
                return
            await asyncio.sleep(max(_PAUSE, (clock() - began) * _SHARE))

    def _reap(self) -> None:
        """Reap the guard once the VMM has ended, too: until then it has its files and its user.

        The guard may end first: the kernel kills it more quickly than a VMM with much memory.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._descriptor)
        if self._vmm is None:
            self._hear()
        if self._vmm is None:
            super()._reap()
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._vmm, signal.SIGKILL)
        loop.add_reader(self._vmm, self._reap_both, self._vmm)

    def _reap_both(self, vmm: int) -> None:
        asyncio.get_running_loop().remove_reader(vmm)
        super()._reap()

    def send_signal(self, number: int) -> None:
        """Send a signal to the VMM; to its guard, as long as the VMM is not known."""
        if self._vmm is None:
            super().send_signal(number)
        elif self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._vmm, number)

    async def kill(self) -> int:
        """Kill the VMM and wait for the end of both. Idempotent.

        Raises TimedOut when the kernel has not ended them after DEATH_SECONDS; then call again.
        """
        with contextlib.suppress(OSError):  # a guard that waits for `proceed` waits no longer
            self._report.shutdown(socket.SHUT_WR)
        if self._vmm is None:
            self.send_signal(signal.SIGTERM)  # the guard kills what it has started
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GUARD_SECONDS):
                    await self.wait()
        return await super().kill()

    def close(self) -> None:
        """Close what it has of a VMM that has ended. Idempotent."""
        self._report.close()
        if self._vmm is not None:
            os.close(self._vmm)
            let_go(self.run)  # with all that the VMM has left in it
        self._vmm, self.run = None, -1


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
