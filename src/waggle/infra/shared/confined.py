# SPDX-License-Identifier: Apache-2.0
"""The VMM process of one machine: start, limits, priority, end, and the identity of a process.

Used by the hypervisors. A VMM has its own session, no new privileges, no core dumps and few
descriptors, and is killed with the server; the process itself gives up the rest
(`namespaces`, `seccomp`). It is watched and signalled through a pidfd, so a reused pid is never
hit (see pidfd_open(2)). `kvm_group` and `refusal` report what this host allows to others than root:
/dev/kvm, and user namespaces for mmdebstrap. Knows nothing of the work of a child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from waggle.domain.errors import BootFailed, SetupIncomplete, TimedOut
from waggle.domain.machine import VmmProcess
from waggle.shipped import document

MAX_DESCRIPTORS: Final = 512
DEATH_SECONDS: Final = 10.0
_CAP_SYS_NICE: Final = 23
Enclose = Callable[[int], Callable[[], None]]
"""Limits the resources of the process with a number; returns a function to call when it is dead."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KVM: Final = Path("/dev/kvm")
_GROUP_USES = stat.S_IRGRP | stat.S_IWGRP
_ALL_USE = stat.S_IROTH | stat.S_IWOTH


def leash(
    argv: Sequence[str], max_descriptors: int = MAX_DESCRIPTORS, *, background: bool = False
) -> list[str]:
    """Return `argv` with no new privileges, few descriptors, no core dumps, killed with its parent.

    In the `background` it has a low priority (nice 10). The child itself sets the limits, because a
    server in a container may not set those of another user's process. They never exceed the
    server's limits, which only a privileged process may raise. Raises SetupIncomplete.
    """
    own = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    max_descriptors = max_descriptors if own < 0 else min(max_descriptors, own)
    limits = [_tool("prlimit"), "--core=0:0", f"--nofile={max_descriptors}:{max_descriptors}"]
    if background:
        limits = [_tool("nice"), "-n", "10", *limits]
    return [*limits, _tool("setpriv"), "--no-new-privs", "--pdeathsig", "KILL", "--", *argv]


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SetupIncomplete(f"{name} (util-linux) is not installed.")
    return path


def identify(pid: int) -> VmmProcess | None:
    """Return the identity of a running process; None when there is none (or only a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return VmmProcess(pid, int(fields[19]), _BOOT_ID.read_text().strip())


def kvm_group(device: Path = KVM) -> int:
    """Return the group with which a VMM that is not root may use /dev/kvm; -1 without one."""
    with contextlib.suppress(OSError):
        found = device.stat()
        if found.st_mode & _GROUP_USES == _GROUP_USES:
            return found.st_gid
    return -1


def may_be_shared(mode: int) -> bool:
    """Return whether users other than root, with the group or without, may use /dev/kvm."""
    return any(mode & bits == bits for bits in (_GROUP_USES, _ALL_USE))


def may_come_forward() -> bool:
    """Return whether this process may undo `background`, which needs CAP_SYS_NICE."""
    status = Path("/proc/self/status").read_text("utf-8")
    (effective,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1)


def come_forward(identity: VmmProcess) -> None:
    """Give a background process the server's priority. Do nothing if it has ended.

    Raises PermissionError where `may_come_forward` is false.
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    done: set[Path] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while identify(identity.pid) == identity:
            # A thread that was started meanwhile has the priority of the thread that started it.
            new = set(Path(f"/proc/{identity.pid}/task").iterdir()) - done
            if not new:
                return
            for thread in new:
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), own)
            done |= new


def kill_identified(identity: VmmProcess) -> bool:
    """Kill the process with this identity, if it still exists; return whether it did.

    Does not wait for its end. Raises PermissionError when it belongs to another user.
    """
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
    """A child process. Use `start`, then `wait` or `kill`; both reap the child."""

    def __init__(self, child: subprocess.Popen[bytes], enclose: Enclose | None = None) -> None:
        """Watch a new child. Kills the child when that fails."""
        self._child = child
        self._release: Callable[[], None] | None = None
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            undo.callback(child.wait)
            undo.callback(child.kill)
            self._descriptor = os.pidfd_open(child.pid)
            undo.callback(os.close, self._descriptor)
            # Its pid cannot be reused until it is reaped, so /proc describes this child.
            gone = VmmProcess(child.pid, 0, _BOOT_ID.read_text().strip())
            self.identity = identify(child.pid) or gone
            self._ended: asyncio.Future[int] = loop.create_future()
            if enclose is not None:
                self._release = enclose(child.pid)
            loop.add_reader(self._descriptor, self._reap)
            undo.pop_all()

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        descriptors: Sequence[int],
        stderr: int,
        stdin: int = subprocess.DEVNULL,
        max_descriptors: int = MAX_DESCRIPTORS,
        background: bool = False,
        enclose: Enclose | None = None,
    ) -> Self:
        """Start `argv` with only these descriptors open, as the server's user.

        The caller closes the descriptors. The process dies with the thread that calls this.
        `enclose` limits its resources. Raises SetupIncomplete when the program cannot be started or
        enclosed.
        """
        try:
            child = subprocess.Popen(
                leash(argv, max_descriptors, background=background),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=tuple(descriptors),
                start_new_session=True,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
            )
        except OSError as error:
            raise SetupIncomplete(f"{argv[0]} cannot be started: {error}.") from error
        return cls(child, enclose)

    def enclose(self, enclose: Enclose) -> None:
        """Limit the resources of a living process that was started without limits. Call it once.

        Raises SetupIncomplete when it cannot be limited.
        """
        self._release = enclose(self._child.pid)

    @property
    def is_alive(self) -> bool:
        """False once the process has ended and was reaped."""
        return not self._ended.done()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        status = self._child.wait()
        if self._release is not None:
            self._release()
        self._ended.set_result(status)

    async def wait(self) -> int:
        """Wait for the exit status, negative for a signal. Safe to cancel and to call again."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def kill(self) -> int:
        """Kill the process and wait for its end. Idempotent.

        Raises TimedOut when the kernel has not ended it after DEATH_SECONDS; then call again.
        """
        self.send_signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(DEATH_SECONDS):
                return await self.wait()
        except TimeoutError:
            raise TimedOut(
                f"Process {self._child.pid} did not die within {DEATH_SECONDS:g} s of SIGKILL."
            ) from None


def python_argv(module: str) -> list[str]:
    """Return the command of a Python that runs `main` of `module`, with this one's import path.

    It skips the hooks of site-packages, because every import of the child costs every boot.
    """
    run = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import main; sys.exit(main())"
    return [sys.executable, "-I", "-S", "-c", run, *map(os.path.abspath, sys.path)]


def filled_pipe(data: bytes, stack: contextlib.ExitStack) -> int:
    """Return the read end of a pipe that holds `data`, which has to fit the pipe's buffer.

    The stack closes it. Raises BootFailed when the data is too long.
    """
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    os.set_blocking(writer, False)
    try:
        if os.write(writer, data) != len(data):
            raise BootFailed("The configuration of the machine's process is too long.")
    finally:
        os.close(writer)
    return reader


NEXT_STEP = (
    "Run 'waggle setup' and 'waggle image build' as root, or allow them as "
    f'"Building without root" in {document("troubleshooting.md")} says.'
)


def refusal(uid: int, root: Path = Path("/")) -> str:
    """Return what denies user `uid` user namespaces for mmdebstrap; empty when nothing does.

    Building without root needs them. Ubuntu's AppArmor allows them only for programs with a
    profile. Its package has one for mmdebstrap, which a local file or an older package may lack.
    Reads settings only; tries nothing.
    """
    if uid == 0:
        return ""
    settings = root / "proc/sys"
    if _number(settings / "user/max_user_namespaces") == 0:
        return "user.max_user_namespaces is 0"
    if _number(settings / "kernel/unprivileged_userns_clone") == 0:
        return "kernel.unprivileged_userns_clone is 0"
    profiles = root / "etc/apparmor.d"
    has_profile = (profiles / "mmdebstrap").exists() and not (
        profiles / "disable/mmdebstrap"
    ).exists()
    if _number(settings / "kernel/apparmor_restrict_unprivileged_userns") == 1 and not has_profile:
        return (
            "kernel.apparmor_restrict_unprivileged_userns is 1, and AppArmor has no profile for "
            "mmdebstrap"
        )
    return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
