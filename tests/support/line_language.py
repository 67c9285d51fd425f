# SPDX-License-Identifier: Apache-2.0
"""The tiny language of programs in a fake guest; see `FakePrograms.run`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from waggle.domain.errors import GuestLost
from waggle.domain.programs import NOTHING_LEFT, Command, ExecutionResult, Left, Streams
from waggle.domain.programs.guest_job import JobStreams

if TYPE_CHECKING:
    from tests.support.guest_programs import FakePrograms


@dataclass(slots=True)
class Run:
    """One execution of the line language."""

    guest: FakePrograms
    command: Command
    into: Streams | JobStreams
    exit_code: int | None = 0
    signal: str | None = None
    timed_out: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    left: Left = NOTHING_LEFT

    async def step(self, verb: str, rest: str) -> bool:
        """Run one line and return False if the program ended."""
        command = self.command
        match verb:
            case "echo":
                self.into.stdout.feed(rest.encode() + b"\n")
            case "err":
                self.into.stderr.feed(rest.encode() + b"\n")
            case "flood":
                self.into.stdout.feed(b"x" * int(rest))
            case "stdin":
                self.into.stdout.feed(command.stdin)
            case "env":
                self.into.stdout.feed(command.env.get(rest, "").encode() + b"\n")
            case "cwd":
                self.into.stdout.feed((command.cwd or self.guest.directory).encode() + b"\n")
            case "leave":
                self.left = self.guest.leave(rest, self.id)
            case "hang":
                self.guest.started.set()
                await self.guest.release.wait()
            case "die":
                self.guest.die()
                raise GuestLost(f"The machine died: {self.guest.cause}")
            case _:
                return self._step_in_context(verb, rest)
        return True

    def _step_in_context(self, verb: str, rest: str) -> bool:
        kept = self.guest.kept.get(self.id)
        context = self.guest.contexts.get(kept.job.attributes.context) if kept else None
        if context is None or not context.knows(verb):
            return self._end(verb, rest)
        self.exit_code = context.step(verb, rest, self.into)
        return self.exit_code == 0

    def _end(self, verb: str, rest: str) -> bool:
        match verb:
            case "exit":
                self.exit_code = int(rest)
            case "signal":
                self.exit_code, self.signal = None, rest
            case "timeout":
                self.exit_code, self.timed_out = None, True
            case _:
                self.into.stderr.feed(f"no such word: {verb}\n".encode())
                self.exit_code = 1
        return False

    def result(self) -> ExecutionResult:
        return ExecutionResult(
            stdout=self.into.stdout.output(),
            stderr=self.into.stderr.output(),
            exit_code=self.exit_code,
            signal=self.signal,
            timed_out=self.timed_out,
            duration=0.25,
            run_id=self.id,
            left=self.left,
        )
