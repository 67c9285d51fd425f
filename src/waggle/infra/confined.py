# SPDX-License-Identifier: Apache-2.0
"""A child process that is kept on a short leash: the VMM of one machine.

Used by the hypervisors. Own session, no new privileges, killed with the server, unprivileged user
when the server is root, no core dumps, few descriptors. The process is watched and signalled
through a pidfd, so a reused pid is never hit (see pidfd_open(2)).
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import SetupIncomplete

MAX_DESCRIPTORS = 512
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def leash(argv: Sequence[str]) -> list[str]:
    """`argv` behind setpriv: no new privileges, and death with the parent. Raises SetupIncomplete."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SetupIncomplete("setpriv (util-linux) is not installed.")
    return [setpriv, "--no-new-privs", "--pdeathsig", "KILL", "--", *argv]


def identify(pid: int) -> MachineIdentity | None:
    """The identity of a running process; None when there is none (or only a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return MachineIdentity(pid, int(fields[19]), _BOOT_ID.read_text().strip())


def kill_identified(identity: MachineIdentity) -> bool:
    """Kill the process with this identity, if it still is that process; say whether it was."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if identify(identity.pid) != identity:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


class ConfinedProcess:
    """One child. Use `start`, then `wait` or `kill`; the child is reaped in either case."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._descriptor = os.pidfd_open(child.pid)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)
        identity = identify(child.pid)
        boot = _BOOT_ID.read_text().strip()
        self.identity = identity or MachineIdentity(child.pid, 0, boot)

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        descriptors: Sequence[int],
        stderr: int,
        uid: int | None,
        groups: Sequence[int] = (),
    ) -> ConfinedProcess:
        """Start `argv` with only these descriptors open. `uid` also becomes the group id.

        Raises SetupIncomplete when the program cannot be started.
        """
        try:
            child = subprocess.Popen(  # noqa: S603 - argv is built from checked values, no shell
                leash(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=tuple(descriptors),
                start_new_session=True,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else list(groups),
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
            )
        except OSError as error:
            raise SetupIncomplete(f"{argv[0]} cannot be started: {error}.") from error
        for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)):
            try:
                resource.prlimit(child.pid, limit, (value, value))
            except (ProcessLookupError, PermissionError):
                break
        return cls(child)

    @property
    def is_alive(self) -> bool:
        """False once the process has ended and was reaped."""
        return not self._ended.done()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._ended.set_result(self._child.wait())

    async def wait(self) -> int:
        """The exit status, negative for a signal. Safe to cancel and to call again."""
        return await asyncio.shield(self._ended)

    async def kill(self) -> int:
        """Kill it and wait until it is gone. Idempotent."""
        if self.is_alive:
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        return await self.wait()
