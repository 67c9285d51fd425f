# SPDX-License-Identifier: Apache-2.0
"""Child processes with a deadline and bounded output, and the open files of processes.

`run` and `run_attached` serve set-up and the preflight checks. Commands are argv lists; no shell is
started. `held_by_listeners` reads from /proc the open files of a server of which only the address
is known: `waggle shell` finds its data directory, `waggle doctor` whether it runs. `raise_limit`
is for a server's own open files. Knows nothing of programs or servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from waggle.domain.errors import SetupIncomplete, TimedOut

KEPT_OUTPUT = 64 * 1024
_CHUNK = 16 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a process. `code` is negative for a signal; the outputs are tails in bytes."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it ended with code 0."""
        return self.code == 0

    def last_words(self, lines: int = 5) -> str:
        """Return the last lines of standard error, or of standard output, for a message."""
        text = (self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace")
        kept = text.splitlines()[-lines:]
        return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in kept)


async def run(argv: Sequence[str], *, timeout: float) -> Finished:
    """Run a program to its end and keep the last KEPT_OUTPUT bytes of each output.

    The program has its own session; on cancellation, and after `timeout` seconds, its whole
    process group is killed and reaped before this returns. Raises SetupIncomplete when the program
    cannot be started, TimedOut.
    """
    process = await _spawn(argv)
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            out = group.create_task(_tail(process.stdout))
            err = group.create_task(_tail(process.stderr))
            group.create_task(process.wait())
    except TimeoutError:
        raise TimedOut(f"{argv[0]} did not end within {timeout:g} s.") from None
    finally:
        await _end_group(process)
    return Finished(process.returncode or 0, out.result(), err.result())


async def _spawn(argv: Sequence[str]) -> asyncio.subprocess.Process:
    """Start the program in its own session; when cancelled, leave nothing of it.

    A cancelled start of asyncio kills only the leader and then waits for every process that holds
    its pipes, so this function lets the start finish and ends the group itself.
    """
    start = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(start)
    except OSError as error:
        raise SetupIncomplete(f"{argv[0]} cannot be started: {error.strerror}.") from error
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([start])
            if start.exception() is None:
                await _end_group(start.result())
        raise


async def run_attached(argv: Sequence[str]) -> int:
    """Run a program on this terminal, so that it can ask and show progress; return its code.

    Cancelling ends it with SIGTERM. Raises SetupIncomplete when it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(*argv)
    except OSError as error:
        raise SetupIncomplete(f"{argv[0]} cannot be started: {error.strerror}.") from error
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            with anyio.CancelScope(shield=True):
                await process.wait()


async def _tail(stream: asyncio.StreamReader | None) -> bytes:
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        kept += chunk
        del kept[:-KEPT_OUTPUT]
    return bytes(kept)


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """Kill the group before its leader is reaped, while its number cannot have been reused."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.wait()


_PROC = Path("/proc")
_LISTEN = "0A"


def held_by_listeners(port: int, name: str, proc: Path = _PROC) -> list[Path]:
    """Return the files called `name` held open by the processes that listen on this TCP port.

    The kernel's answer needs no record and is never stale, and only the server's user and root get
    it. Omits processes that may not be read; empty where there is no /proc of Linux.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port, proc)}
    found: list[Path] = []
    for process in proc.iterdir() if sockets else ():
        opened = set(_opened(process / "fd")) if process.name.isdigit() else set[str]()
        if not sockets.isdisjoint(opened):
            found += [file for file in map(Path, opened) if file.name == name]
    return found


def _listening(port: int, proc: Path) -> Iterator[str]:
    """Yield the inodes of sockets that listen on the port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue  # no such family, or no /proc of Linux
        for line in lines:
            words = line.split()
            if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _opened(directory: Path) -> Iterator[str]:
    """Yield the link targets in /proc/PID/fd; nothing for another user's process."""
    with contextlib.suppress(OSError):
        for link in directory.iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())


MOST = 1 << 20
"""A higher limit has no use, and programs that close all possible descriptors would take long."""


def reachable(soft: int, hard: int) -> int:
    """Return the limit that a process with these limits can raise its own to. Pure."""
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    return soft if soft == resource.RLIM_INFINITY else max(soft, most)


def limits() -> tuple[int, int]:
    """Return the soft and the hard limit of open files of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_limit(
    change: Callable[[int, tuple[int, int]], None] = resource.setrlimit,
) -> int:
    """Raise this process's limit of open files as far as possible and return it; never raises.

    Called when a server starts: a shell's usual 1,024 are fewer than a server's connections. Its
    children get other limits (`waggle.infra.shared.confined`).
    """
    soft, hard = limits()
    wanted = reachable(soft, hard)
    if wanted == soft:
        return soft
    try:
        change(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a kernel or container that allows less than it reports
        return soft
    return wanted
