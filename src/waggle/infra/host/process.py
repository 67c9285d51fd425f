# SPDX-License-Identifier: Apache-2.0
"""Child processes with a deadline and bounded output, and processes recognised by more than a pid.

Called by set-up, by preflight checks and by recovery after a restart. Commands are argv lists;
no shell is ever started. Knows nothing of what a program does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import SetupIncomplete, TimedOut

KEPT_OUTPUT = 64 * 1024
_CHUNK = 16 * 1024
_PROC = Path("/proc")
_START_TIME_FIELD = 22
_STATE_FIELD = 3


@dataclass(frozen=True, slots=True)
class Finished:
    """How a process ended. `code` is negative for a signal; the outputs are tails in bytes."""

    argv: tuple[str, ...]
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


async def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    keep: int = KEPT_OUTPUT,
) -> Finished:
    """Run a program to its end and keep the last `keep` bytes of each output.

    The program has its own session; on cancellation, and after `timeout` seconds, its whole
    process group is killed and reaped before this returns. Without `env` it inherits the
    environment. Raises SetupIncomplete when the program cannot be started, TimedOut.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise SetupIncomplete(f"{argv[0]} cannot be started: {error.strerror}.") from error
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            out = group.create_task(_tail(process.stdout, keep))
            err = group.create_task(_tail(process.stderr, keep))
            group.create_task(_feed(process.stdin, stdin))
            group.create_task(process.wait())
    except TimeoutError:
        raise TimedOut(f"{argv[0]} did not end within {timeout:g} s.") from None
    finally:
        await _end_group(process)
    return Finished(tuple(argv), process.returncode or 0, out.result(), err.result())


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
            await asyncio.shield(process.wait())


def identity(pid: int) -> MachineIdentity | None:
    """Return what tells the process `pid` from any later one of that number; None if it is gone."""
    fields = _stat(pid)
    if fields is None or fields[_STATE_FIELD - 3] in "ZX":
        return None
    return MachineIdentity(pid, int(fields[_START_TIME_FIELD - 3]), _boot_id())


def is_alive(process: MachineIdentity) -> bool:
    """Say whether exactly this process still runs. A zombie does not."""
    return identity(process.pid) == process


def send_signal(process: MachineIdentity, number: signal.Signals) -> bool:
    """Signal exactly this process, never another that got its pid; say whether it was there.

    Raises PermissionError when it belongs to somebody else.
    """
    descriptor = _open(process)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def end(process: MachineIdentity, *, grace: float = 0.0, timeout: float = 10.0) -> bool:
    """End exactly this process and wait until it is dead; say whether it was there.

    It gets SIGTERM and `grace` seconds (none: no SIGTERM), then SIGKILL. Idempotent. Raises
    TimedOut when the kernel has not ended it after `timeout` seconds, PermissionError.
    """
    descriptor = _open(process)
    if descriptor is None:
        return False
    try:
        with contextlib.suppress(ProcessLookupError):
            if grace > 0:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                if await _exited(descriptor, grace):
                    return True
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not await _exited(descriptor, timeout):
            raise TimedOut(f"Process {process.pid} did not die within {timeout:g} s of SIGKILL.")
    finally:
        os.close(descriptor)
    return True


def _open(process: MachineIdentity) -> int | None:
    """Open a pidfd. It names one process for good, so the check after it leaves no race."""
    if process.pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except (ProcessLookupError, OverflowError):
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


async def _exited(descriptor: int, timeout: float) -> bool:
    """Wait until the process behind a pidfd is dead, which makes the descriptor readable."""
    loop, dead = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, dead.set)
    try:
        async with asyncio.timeout(timeout):
            await dead.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on; the second may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()


async def _tail(stream: asyncio.StreamReader | None, keep: int) -> bytes:
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        kept += chunk
        del kept[: max(0, len(kept) - keep)]
    return bytes(kept)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """Kill the group while its leader is not reaped, so that the number is surely still its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
