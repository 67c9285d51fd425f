# SPDX-License-Identifier: Apache-2.0
"""Live interpreters of a fake guest: their variables stay, one cell at a time, and they end.

Used by `tests.support.guest`. Cells have more lines than programs: `set NAME VALUE`, `get NAME`,
`quit N` (the interpreter ends with that code), `crash NAME` (by that signal) and `ignore` (from
here on it ignores interrupts).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from waggle.domain.programs import ExecutionResult, Streams
from waggle.domain.programs.guest_job import GuestJob, JobStreams
from waggle.domain.programs.runtime import Runtime, RuntimeName


def runtimes(python: str = "python3") -> dict[RuntimeName, Runtime]:
    """Return runtimes with the interpreters that drivers know, but for Python."""
    programs = {RuntimeName.NODE: "node", RuntimeName.SHELL: "bash"}
    return {
        name: Runtime(name, ".x", (programs.get(name, python), "{file}"), ("install", "{packages}"))
        for name in RuntimeName
    }


@dataclass(slots=True, eq=False)
class FakeContext:
    """An interpreter that lives until `end`. `cells` are the ids of those that began, in order."""

    job: GuestJob
    variables: dict[str, str] = field(default_factory=dict[str, str])
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    cells: list[str] = field(default_factory=list[str])
    ignores: bool = False
    is_deaf: bool = False
    """Whether it lives, but takes no cells any more."""
    ended: anyio.Event = field(default_factory=anyio.Event)
    exit_code: int | None = None
    signal: str | None = None

    def end(self, exit_code: int | None = None, signal: str | None = None) -> None:
        """End it, if it lives."""
        if not self.ended.is_set():
            self.exit_code, self.signal = exit_code, signal
            self.ended.set()

    def copy(self) -> FakeContext:
        """Return the same interpreter in a copy of the machine."""
        copied = FakeContext(self.job, dict(self.variables), ignores=self.ignores)
        if self.ended.is_set():
            copied.end(self.exit_code, self.signal)
        return copied

    def knows(self, verb: str) -> bool:
        """Return whether this is a line of cells."""
        return verb in ("set", "get", "ignore", "quit", "crash")

    def step(self, verb: str, rest: str, into: Streams | JobStreams) -> int:
        """Run one line of a cell; return 0 if the cell goes on."""
        match verb:
            case "set":
                name, _, value = rest.partition(" ")
                self.variables[name] = value
            case "get" if rest in self.variables:
                into.stdout.feed(self.variables[rest].encode() + b"\n")
            case "get":
                into.stderr.feed(f"{rest} is not defined\n".encode())
                return 1
            case "ignore":
                self.ignores = True
            case "quit":
                self.end(exit_code=int(rest))
                return int(rest) or 1
            case _:
                self.end(signal=rest)
                return 1
        return 0

    def interrupt(self, cell: GuestJob) -> None:
        """End a cell from outside; with it the interpreter if that ignores interrupts."""
        if self.ignores:
            cell.lost_context = True
            self.end(signal="SIGKILL")

    def result(self) -> ExecutionResult:
        """Return how it ended."""
        return ended(self.job, exit_code=self.exit_code, signal=self.signal)


def ended(
    job: GuestJob,
    *,
    exit_code: int | None = None,
    signal: str | None = None,
    context_ended: bool = False,
) -> ExecutionResult:
    """Return the end of a job of a context."""
    return ExecutionResult(
        stdout=job.streams.stdout.output(),
        stderr=job.streams.stderr.output(),
        exit_code=exit_code,
        signal=signal,
        timed_out=False,
        duration=0.25,
        run_id=job.id,
        context_ended=context_ended,
    )
