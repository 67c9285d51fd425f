# SPDX-License-Identifier: Apache-2.0
"""The programs of a fake guest: code in a tiny line language, as jobs and in contexts.

The base of `tests.support.guest`.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.lowlevel
from tests.support.fake_contexts import FakeContext, ended
from tests.support.guest_files import FakeFiles
from tests.support.kept_jobs import KeptJob
from tests.support.line_language import Run

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import GuestLost
from waggle.domain.network.use import NetworkUse
from waggle.domain.programs import NOTHING_LEFT, Command, ExecutionResult, Left, Output, Streams
from waggle.domain.programs import Program as KitProgram
from waggle.domain.programs.guest_job import Detached, FoundJob, GuestJob, JobStreams, Terminal
from waggle.tasks import together

Program = Callable[[Command, Any], Awaitable[ExecutionResult]]
"""A test's program; it gets `Streams`, or `JobStreams` if it is a job's."""


def output(data: bytes, limit: int) -> Output:
    """Return `data` as a stream keeps it: cut in the middle if it is over `limit` bytes."""
    if len(data) <= limit:
        return Output(head=data, total=len(data))
    half = limit // 2
    return Output(head=data[:half], tail=data[len(data) - half :], total=len(data))


@dataclass(slots=True)
class Kept:
    """A stream that shows `limit` bytes of its input."""

    limit: int
    data: bytes = b""

    def feed(self, data: bytes) -> None:
        self.data += data

    def output(self) -> Output:
        return output(self.data, self.limit)


@dataclass(slots=True)
class FakePrograms(FakeFiles):
    """A guest as far as it runs programs. Set `run_error` to make runs fail.

    `programs` maps argv[0] to a program that runs instead of the line language. `started` is set
    when a `hang` line begins, `release` ends it; `cancelled` lists the cancelled commands. `left`
    are the programs that `leave` lines left running. `kept` are its jobs by id, which it lists;
    `found` overrides that list, `listing_jobs` keeps the answer waiting, `start_until` starts of
    jobs, `follow_until` what jobs printed. `attended` lists the ids of those that were followed.
    `contexts` holds the live interpreters by their jobs' ids; see `tests.support.fake_contexts`.
    `typed` is called with what is written to a job, unless `write_error` is set, and `sizes` lists
    those of terminals.
    """

    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    commands: list[Command] = field(default_factory=list[Command])
    cancelled: list[Command] = field(default_factory=list[Command])
    release: anyio.Event = field(default_factory=anyio.Event)
    was_cancelled: anyio.Event = field(default_factory=anyio.Event)
    run_error: Exception | None = None
    diagnosis: Diagnosis | None = None
    diagnosing: anyio.Event = field(default_factory=anyio.Event)
    diagnose_until: anyio.Event | None = None
    network: NetworkUse | None = None
    left: Left = NOTHING_LEFT
    dying: set[int] = field(default_factory=set[int])
    found: tuple[FoundJob, ...] | None = None
    listing_jobs: anyio.Event | None = None
    start_until: anyio.Event | None = None
    follow_until: anyio.Event | None = None
    kept: dict[str, KeptJob] = field(default_factory=dict[str, KeptJob])
    attended: list[str] = field(default_factory=list[str])
    contexts: dict[str, FakeContext] = field(default_factory=dict[str, FakeContext])
    written: list[tuple[str, bytes, bool]] = field(default_factory=list[tuple[str, bytes, bool]])
    signals: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    sizes: list[Terminal] = field(default_factory=list[Terminal])
    typed: Callable[[KeptJob, bytes], None] = lambda _kept, _data: None
    write_error: Exception | None = None
    detached: anyio.Event = field(default_factory=anyio.Event)

    async def run(
        self, command: Command, into: Streams | JobStreams | None = None, run_id: str = ""
    ) -> ExecutionResult:
        """Run `command.code`, line by line; without code, print argv.

        Lines: `echo X`, `err X`, `flood N` (N bytes), `stdin`, `env NAME`, `cwd`, `exit N`, `signal
        NAME`, `timeout` (the run timed out), `hang` (until `release` is set), `die`, `leave X` (a
        program that keeps running). Any other line fails as in an interpreter: stderr and exit code
        1.
        """
        self.commands.append(command)
        if self.run_error is not None:
            raise self.run_error
        try:
            into = into or Streams(Kept(command.output_limit), Kept(command.output_limit))
            if program := self.programs.get(command.argv[0]):
                return await program(command, into)
            return await self.interpret(command, into, run_id or str(uuid.uuid4()))
        except anyio.get_cancelled_exc_class():
            if not self.detached.is_set():
                self.cancelled.append(command)
                self.was_cancelled.set()
            raise

    async def attend(self, job: GuestJob) -> ExecutionResult:
        """Run a job's program, or go on with it from the line at which it was left."""
        self._enter()
        if self.start_until is not None and not job.is_started:
            await self.start_until.wait()
        kept = self.kept.setdefault(job.id, KeptJob(job))
        job.is_started = True
        job.started()
        self.attended.append(job.id)
        if self.follow_until is not None:
            await self.follow_until.wait()
        streams = kept.followed_by(job)
        if kept.result is None:
            try:
                await self._until_its_end(kept, streams)
            except anyio.get_cancelled_exc_class():
                kept.kill()
                raise
        if kept.result is None:
            raise Detached
        return kept.end(job)

    async def _until_its_end(self, kept: KeptJob, streams: JobStreams) -> None:
        """Run it to its end, or to a pause. Raises GuestLost when the machine dies meanwhile."""

        async def leave() -> None:
            await self.detached.wait()
            group.cancel_scope.cancel()

        async def die() -> None:
            await self.dead.wait()
            if not self.detached.is_set():
                raise GuestLost(f"The machine died: {self.cause}")

        async with together() as group:
            group.start_soon(leave)
            group.start_soon(die)
            kept.result = await self._ran(kept, streams)
            group.cancel_scope.cancel()

    async def _ran(self, kept: KeptJob, streams: JobStreams) -> ExecutionResult:
        """Run it as what it is: a program, an interpreter, or code for one."""
        attributes = kept.job.attributes
        if attributes.has_driver:
            return await self._interpreter(kept.job)
        if attributes.context:
            return await self._cell(kept, streams)
        return await self.run(kept.command, streams, kept.job.id)

    async def _interpreter(self, job: GuestJob) -> ExecutionResult:
        """Be the interpreter of a context until it ends, or is killed."""
        if self.run_error is not None:
            raise self.run_error
        context = self.contexts.setdefault(job.id, FakeContext(job))
        context.job = job
        try:
            await context.ended.wait()
        except anyio.get_cancelled_exc_class():
            if not self.detached.is_set():
                context.end(signal="SIGKILL")
            raise
        return context.result()

    async def _cell(self, kept: KeptJob, streams: JobStreams) -> ExecutionResult:
        """Run code in its context when those before it have ended, as long as that lives."""
        job = kept.job
        if self.run_error is not None:
            raise self.run_error
        context = self.contexts.get(job.attributes.context)
        if context is None or context.is_deaf or context.ended.is_set():
            return ended(job, context_ended=True)
        results: list[ExecutionResult] = []

        async def watch() -> None:
            await context.ended.wait()
            group.cancel_scope.cancel()

        async with context.turn:
            context.cells.append(job.id)
            try:
                async with together() as group:
                    group.start_soon(watch)
                    results.append(await self.run(kept.command, streams, job.id))
                    group.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():
                if not self.detached.is_set():
                    context.interrupt(job)
                raise
        if not results or context.ended.is_set():
            return ended(job, context_ended=True)
        if results[0].timed_out:
            context.interrupt(job)
        return replace(results[0], context_ended=job.lost_context)

    async def jobs(self) -> tuple[FoundJob, ...]:
        """Return its jobs, or those that the test says."""
        await anyio.lowlevel.checkpoint()
        if self.listing_jobs is not None:
            await self.listing_jobs.wait()
        self._enter()
        if self.found is not None:
            return self.found
        return tuple(kept.found() for kept in self.kept.values())

    def network_use(self) -> NetworkUse | None:
        """Return what the test says that it has made of its network."""
        return self.network

    async def write_input(self, job_id: str, data: bytes, *, close: bool) -> bool:
        await anyio.lowlevel.checkpoint()
        if self.write_error is not None:
            raise self.write_error
        kept = self.kept.get(job_id)
        is_closed = any(end for other, _, end in self.written if other == job_id)
        if kept is None or kept.result or is_closed or not kept.takes_input:
            return False
        self.written.append((job_id, data, close))
        self.typed(kept, data)
        return True

    async def signal(self, job_id: str, number: int) -> bool:
        await anyio.lowlevel.checkpoint()
        kept = self.kept.get(job_id)
        if kept is None or kept.result is not None:
            return False
        self.signals.append((job_id, number))
        return True

    async def resize(self, job_id: str, terminal: Terminal) -> bool:
        await anyio.lowlevel.checkpoint()
        self.sizes.append(terminal)
        return True

    async def left_running(self) -> Left:
        """Return the test's programs; killed ones appear once more, as in a real guest."""
        await anyio.lowlevel.checkpoint()
        self._enter()
        left = self.left
        kept = tuple(program for program in left.programs if program.pid not in self.dying)
        self.left = Left(kept, left.count - len(left.programs) + len(kept))
        self.dying.clear()
        return left

    def leave(self, command: str, run_id: str) -> Left:
        """Leave one more program running and return all programs of this run."""
        pid = 100 + len(self.left.programs)
        programs = (*self.left.programs, KitProgram(pid, command, run_id))
        self.left = Left(programs, len(programs))
        return Left(self.left.of(run_id), len(self.left.of(run_id)))

    async def end_program(self, pid: int) -> bool:
        await anyio.lowlevel.checkpoint()
        found = pid not in self.dying and pid in [program.pid for program in self.left.programs]
        self.dying.add(pid)
        return found

    async def end_run(self, run_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.left = self.left.without(frozenset({run_id}))

    async def diagnose(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Return the test's diagnosis, for a failure or a hidden one, after `diagnose_until`."""
        self.diagnosing.set()
        if self.diagnose_until is not None:
            await self.diagnose_until.wait()
        await anyio.lowlevel.checkpoint()
        hidden = self.diagnosis is not None and self.diagnosis.code == "network_refused"
        return self.diagnosis if hidden or result.exit_code != 0 else None

    async def interpret(
        self, command: Command, into: Streams | JobStreams, run_id: str = "run"
    ) -> ExecutionResult:
        await anyio.lowlevel.checkpoint()
        run = Run(self, command, into, id=run_id)
        if command.code is None:
            into.stdout.feed(" ".join(command.argv).encode())
        lines = (command.code or b"").decode().splitlines()
        kept = self.kept.get(run_id)
        for at in range(kept.lines_done if kept else 0, len(lines)):
            line = lines[at].strip()
            if line and not await run.step(*line.partition(" ")[::2]):
                break
            if kept is not None:
                kept.lines_done = at + 1
        return run.result()
