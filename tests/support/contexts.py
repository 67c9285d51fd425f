# SPDX-License-Identifier: Apache-2.0
"""Live interpreters of a real guest, for tests without the services above it.

`Interpreter.begin` starts one in a task; `cell` runs code in it as the server would, and returns
what it printed and displayed. `image_lab` is a lab that knows this installation's images.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.jobs import job
from tests.support.vm import Images, Lab, Parts, machines
from tests.support.waiting import until

from waggle.app.root import image_service
from waggle.config import load
from waggle.domain.host import no_progress
from waggle.domain.programs import Command, ExecutionResult, GuestUser
from waggle.domain.programs.display import Display, records_of
from waggle.domain.programs.guest_job import Attributes, GuestJob, JobStreams
from waggle.infra.shared.spool import Spool
from waggle.service.local.guest import LocalGuest

RUNNERS = "/.waggle/runners"
PYTHON = ("python3", f"{RUNNERS}/context.py")
NODE = ("node", f"{RUNNERS}/context.js")
BASH = ("bash", f"{RUNNERS}/context.sh")
BUSYBOX = ("/.waggle/bin/busybox", "sh", f"{RUNNERS}/context.sh")
EXTENSIONS: Mapping[tuple[str, ...], str] = {
    PYTHON: ".py",
    NODE: ".js",
    BASH: ".sh",
    BUSYBOX: ".sh",
}
SECONDS = 120.0
"""Limit of cells: machines share two busy cores and have no hardware virtualisation."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of code that ran."""

    result: ExecutionResult
    out: str
    err: str
    displays: tuple[Display, ...]
    dropped: int

    @property
    def code(self) -> int | None:
        return self.result.exit_code


def _job(command: Command, attributes: Attributes) -> tuple[GuestJob, list[Spool]]:
    spools = [Spool(Path("/tmp"), keep=32 << 20, view=1 << 20) for _ in range(3)]
    made = job(command, attributes)
    made.streams = JobStreams(*spools)
    return made, spools


@dataclass(slots=True)
class Interpreter:
    """A context of a guest. `ends` is its end."""

    guest: LocalGuest
    argv: tuple[str, ...]
    job: GuestJob
    ends: asyncio.Task[ExecutionResult]
    spools: list[Spool] = field(default_factory=list[Spool])

    @classmethod
    async def begin(
        cls,
        guest: LocalGuest,
        argv: tuple[str, ...] = PYTHON,
        user: GuestUser = GuestUser.SANDBOX,
        env: Mapping[str, str] | None = None,
    ) -> Interpreter:
        """Start one and return it once the guest has it."""
        command = Command(argv, 3_600.0, user=user, env=env or {})
        made, spools = _job(command, Attributes(keep=1 << 18, has_driver=True))
        started = asyncio.Event()
        made.started = started.set
        ends = asyncio.ensure_future(guest.attend(made))
        waiting = asyncio.ensure_future(started.wait())
        await asyncio.wait({ends, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return cls(guest, argv, made, ends, spools)

    def start(
        self,
        code: str,
        *,
        timeout: float = SECONDS,
        interrupts: int = 5,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Running:
        """Start code in it, in a task."""
        command = Command(
            self.argv,
            timeout,
            code=code.encode(),
            extension=EXTENSIONS[self.argv],
            apart=True,
            stdin=stdin,
            env=env or {},
            cwd=cwd,
            user=self.job.command.user,
        )
        attributes = Attributes(
            keep=1 << 20, has_displays=True, context=self.job.id, interrupts=interrupts
        )
        made, spools = _job(command, attributes)
        return Running(made, spools, asyncio.ensure_future(self.guest.attend(made)))

    async def cell(
        self,
        code: str,
        *,
        timeout: float = SECONDS,
        interrupts: int = 5,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Cell:
        """Run code in it to its end."""
        running = self.start(
            code, timeout=timeout, interrupts=interrupts, stdin=stdin, env=env, cwd=cwd
        )
        return await running.ended()

    async def prints(self, code: str) -> str:
        """Run code that must succeed; return its output."""
        cell = await self.cell(code)
        assert cell.code == 0, (
            cell.result,
            cell.err,
            self.ends.done() and str(self.ends.result())[-300:],
            self.said,
        )
        return cell.out

    @property
    def said(self) -> list[str]:
        """What it printed outside of cells."""
        return [spool.output().text() for spool in self.spools]

    async def end(self) -> None:
        """Kill it, if it lives."""
        self.ends.cancel()
        await asyncio.wait({self.ends})
        for spool in self.spools:
            spool.close()


@dataclass(slots=True)
class Running:
    """Code that was started."""

    job: GuestJob
    spools: list[Spool]
    task: asyncio.Task[ExecutionResult]

    async def printed(self, text: str) -> None:
        """Wait until it has printed this."""
        await until(lambda: text in self.spools[0].output().text(), SECONDS)

    async def ended(self) -> Cell:
        """Wait for its end."""
        try:
            result = await self.task
            found = records_of(self.spools[2], ended=True).read()
            out, err = (spool.output().text() for spool in self.spools[:2])
            return Cell(result, out, err, found.items, found.dropped)
        finally:
            for spool in self.spools:
                spool.close()


@contextlib.asynccontextmanager
async def image_lab(directory: Path, parts: Parts, *names: str) -> AsyncGenerator[Lab]:
    """Run a lab that knows images of this installation by their names."""
    directory.chmod(0o755)  # every machine's process has its own user
    service = image_service(load())
    images = {name: await service.boot_image(name, no_progress) for name in names}
    lab = Lab(parts, directory, Images(images), machines())
    try:
        yield lab
    finally:
        await lab.close()
