# SPDX-License-Identifier: Apache-2.0
"""Run the outer machine: start QEMU, follow its events, and end it at a deadline.

The kernel kills QEMU when the thread that started it ends (parent-death signal), so it dies with
the lab however that ends. Call it on the main thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.events import Ended, Event, Progress, Started, Up, parse
from lab.machine import Disks, qemu_argv
from waggle.tasks import finish

UP_SECONDS = 180.0
"""Limit for the outer machine to come up; an idle machine takes 5 s."""
GRACE_SECONDS = 60.0
"""Time to end a job inside after its own deadline, before the whole machine is ended."""
SILENCE_SECONDS = 90.0
"""Limit of silence: during a job, events come every few seconds unless the machine hangs."""
END_SECONDS = 5.0
"""Time to end without help after the last event, before the machine is killed."""
REPORT_BYTES = 256 << 20
_LINE_BYTES = 1 << 20
_MESSAGE_BYTES = 4000


@dataclass(slots=True)
class Outcome:
    """How a run ended. `problem` is empty if all jobs ended, even with failures.

    `broke` means that the machine failed, not one of its jobs.
    """

    progress: Progress = field(default_factory=Progress)
    problem: str = ""
    broke: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """One outer machine: what it boots, and `directory` for the files that it writes."""

    qemu: str
    kernel: Path
    initramfs: Path
    disks: Disks
    directory: Path

    @property
    def console(self) -> Path:
        """The file with its kernel's output."""
        return self.directory / "console.log"


async def run(machine: Machine, total_seconds: float, on_event: Callable[[Event], None]) -> Outcome:
    """Run it until its jobs end. Cancelling ends QEMU. Raises OSError if it cannot start."""
    outcome, began = Outcome(), time.monotonic()
    machine.console.touch()
    machine.disks.report.touch()
    os.truncate(machine.disks.report, REPORT_BYTES)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = qemu_argv(
            machine.qemu,
            kernel=machine.kernel,
            initramfs=machine.initramfs,
            disks=machine.disks,
            console=machine.console,
            progress=theirs.fileno(),
        )
        with (machine.directory / "qemu.log").open("wb") as messages:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                pass_fds=[theirs.fileno()],
                # QEMU puts disk snapshots here, in case it is killed before it unlinks them.
                env={**os.environ, "TMPDIR": str(machine.directory)},
                start_new_session=True,
            )
        theirs.close()
        try:
            await _follow(ours, outcome, total_seconds, on_event)
            patience = GRACE_SECONDS if outcome.progress.over else END_SECONDS
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            pass
        finally:
            await finish(_kill(process))
    if not outcome.progress.over and not outcome.problem:
        outcome.problem = f"the outer machine ended by itself ({process.returncode})"
        outcome.broke = True
    outcome.seconds = time.monotonic() - began
    return outcome


async def _follow(
    ours: socket.socket,
    outcome: Outcome,
    total_seconds: float,
    on_event: Callable[[Event], None],
) -> None:
    """Read events until the machine is done, gone or late, and set `outcome.problem` if late."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
    last = loop.time() + total_seconds
    end = min(last, loop.time() + UP_SECONDS)
    silent = False
    try:
        async with asyncio.timeout_at(end) as deadline:
            while not outcome.progress.over and (line := await reader.readline()):
                if (event := parse(line)) is None:
                    continue
                outcome.progress.take(event)
                if isinstance(event, Started):
                    end = min(last, loop.time() + event.seconds + GRACE_SECONDS)
                elif isinstance(event, Up | Ended):
                    end = last
                quiet = loop.time() + SILENCE_SECONDS
                silent = quiet < end
                deadline.reschedule(min(end, quiet))
                on_event(event)
    except TimeoutError:
        outcome.problem, outcome.broke = _late(outcome.progress, silent)
    except ConnectionError:
        pass
    finally:
        writer.close()


def _late(progress: Progress, silent: bool) -> tuple[str, bool]:
    """Return what was late, and whether the machine itself is the cause. Pure."""
    if not progress.up:
        return "the outer machine did not come up in time", False
    if silent:
        return f"the outer machine fell silent for {SILENCE_SECONDS:.0f} s", True
    return f"the job {progress.running or 'after the last one'} was not over in time", False


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def last_words(machine: Machine, lines: int = 25) -> Sequence[str]:
    """Return the last lines of the outer kernel and of QEMU, to report a failure."""
    kept: list[str] = []
    for path in (machine.console, machine.directory / "qemu.log"):
        if path.exists():
            tail = path.read_bytes()[-_MESSAGE_BYTES * 4 :].decode("utf-8", "replace")
            kept += tail.replace("\r", "").splitlines()[-lines:]
    return kept
