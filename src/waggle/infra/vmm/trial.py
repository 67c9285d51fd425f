# SPDX-License-Identifier: Apache-2.0
"""A confined run of a program that an operator named, which may be any.

`candidate` uses it. The program runs as nobody where this process is root, without network, new
privileges or input, in an empty directory of its own, with bounds on time of the processor, memory,
threads, files and output. On x86-64 it can start no process (`alone`), so its memory is that of
one; elsewhere its processes are bounded as threads are. It ends with the block. Knows no versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Final

from waggle.infra.guest import door
from waggle.infra.shared import confined
from waggle.tasks import finish

API: Final = "api.sock"
"""The name of the socket that a program may make in its directory."""
_NOBODY: Final = 65534
_OUTPUT: Final = 16 << 10
_LIMITS: Final = ("--cpu=10", f"--data={1 << 30}", f"--fsize={1 << 20}")
MOST_THREADS: Final = 1024
"""Of its user, in all: on the host others may be nobody, too."""
_ALONE: Final = (
    "import sys; at = sys.argv.index('--'); sys.path[:] = sys.argv[1:at]; "
    "from waggle.infra.vmm.alone import main; main(sys.argv[at + 1 :])"
)
_PROBE_SECONDS: Final = 10.0
_POLL: Final = 0.02


class Trial:
    """A running program. Get one from `running`, which ends it."""

    def __init__(self, process: asyncio.subprocess.Process, place: int) -> None:
        """`place` is a descriptor of its directory. The output is read all the time."""
        self._process = process
        self._place = place
        self._reading = asyncio.ensure_future(_read(process.stdout))

    async def ended(self) -> tuple[int, str]:
        """Wait for its end; return its code, negative for a signal, and what it printed first."""
        output = await asyncio.shield(self._reading)
        return await self._process.wait(), output.decode("utf-8", "replace")

    async def listens(self) -> bool:
        """Wait until it accepts connections at API; return False when it ends before."""
        while self._process.returncode is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                (await self.dial()).close()
                return True
            await asyncio.sleep(_POLL)
        return False

    async def dial(self) -> socket.socket:
        """Return a connection to its API, which does not block. Raises OSError."""
        return await door.dial(self._place, API, uid=os.geteuid() or _NOBODY)

    async def end(self) -> None:
        """Kill it. Idempotent."""
        if self._process.returncode is None:
            # It was not reaped, so the number of its group cannot have been reused.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._reading.cancel()
        await asyncio.wait([self._reading])


@contextlib.asynccontextmanager
async def running(
    program: Path, options: Sequence[str], where: Path, *, kvm: bool = False
) -> AsyncGenerator[Trial]:
    """Run a program in an empty directory below `where` for the block; with `kvm` it may use that.

    Raises OSError, or SetupIncomplete without util-linux.
    """
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_private_directory(where))
        held = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, held)
        # By the descriptor, because its user may not enter our directories.
        argv = await asyncio.to_thread(confine, [f"/proc/self/fd/{held}", *options], kvm=kvm)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(held,),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd=f"/proc/self/fd/{place}",
            start_new_session=True,
        )
        trial = Trial(process, place)
        try:
            yield trial
        finally:
            await finish(trial.end())


@contextlib.contextmanager
def _private_directory(where: Path) -> Generator[int]:
    """Make an empty directory that only the program's user can enter; yield a descriptor."""
    with tempfile.TemporaryDirectory(
        prefix="waggle-vmm-", dir=where, ignore_cleanup_errors=True
    ) as name:
        if os.geteuid() == 0:
            os.chown(name, _NOBODY, _NOBODY)
        descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def confine(argv: Sequence[str], *, kvm: bool) -> list[str]:
    """Return `argv` as a process with as few rights as this user can give it.

    With `kvm` it may use that, if a group may. Raises SetupIncomplete without util-linux.
    """
    own = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    threads = MOST_THREADS if own < 0 else min(MOST_THREADS, own)
    apart, is_root = namespaces(os.geteuid()), os.geteuid() == 0
    # Without those, all programs of this user would count.
    most = [f"--nproc={threads}"] if apart or is_root else []
    limited = ["prlimit", *_LIMITS, *most, "--", *argv]
    python = [sys.executable, "-I", "-S", "-c", _ALONE, *map(os.path.abspath, sys.path), "--"]
    if not is_root:
        return confined.leash([*apart, *python, *limited])
    group = confined.kvm_group() if kvm else -1
    groups = "--clear-groups" if group < 0 else f"--groups={group}"
    # A change of user clears the signal at the parent's death, so it is set again.
    nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", groups, "--pdeathsig", "KILL"]
    return confined.leash([*apart, *python, *nobody, "--", *limited])


@functools.cache
def namespaces(user: int) -> tuple[str, ...]:
    """Return a prefix for namespaces without a network; empty where this user may make none.

    They have only its processes, which all end with the first.
    """
    prefix = ("unshare", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL")
    own = () if user == 0 else ("--user", "--map-current-user")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        argv = [*prefix, *own, "true"]
        subprocess.run(argv, check=True, capture_output=True, timeout=_PROBE_SECONDS)
        return (*prefix, *own)
    return ()


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    """Read to the end, and return the beginning."""
    kept = b""
    while stream is not None and (chunk := await stream.read(_OUTPUT)):
        kept = (kept + chunk)[:_OUTPUT]
    return kept
