# SPDX-License-Identifier: Apache-2.0
"""What a fake guest keeps of its jobs, as the kit does: the program, its place, output and end.

A copy of a fake machine has a copy of them. Used by `tests.support.guest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from waggle.domain.programs import Command, ExecutionResult, Output
from waggle.domain.programs.guest_job import FoundJob, GuestJob, JobStream, JobStreams


@dataclass(slots=True)
class KeptJob:
    """One job.

    `lines_done` is how far its program is; `printed` are its streams so far, `streams` where the
    program prints now.
    """

    job: GuestJob
    lines_done: int = 0
    printed: list[bytes] = field(default_factory=lambda: [b"", b"", b""])
    result: ExecutionResult | None = None
    signal: int | None = None
    elapsed: float = 1.0
    streams: JobStreams | None = None

    def followed_by(self, job: GuestJob) -> JobStreams:
        """Give a follower what it lacks, and return the streams that both take."""
        streams = (job.streams.stdout, job.streams.stderr, job.streams.display)
        tees = [_Tee(self, job, number, stream) for number, stream in enumerate(streams)]
        for number, tee in enumerate(tees):
            if missing := self.printed[number][job.offsets[number] :]:
                job.offsets[number] += len(missing)
                tee.stream.feed(missing)
        self.streams = JobStreams(*tees)
        return self.streams

    def end(self, job: GuestJob) -> ExecutionResult:
        """Return how it ended, with the follower's output."""
        assert self.result is not None
        stdout, stderr = job.streams.stdout.output(), job.streams.stderr.output()
        return replace(self.result, stdout=stdout, stderr=stderr, run_id=job.id)

    def kill(self) -> None:
        """Note that it was killed."""
        self.signal = 9
        self.result = ExecutionResult(
            Output(b""), Output(b""), None, signal="SIGKILL", timed_out=False, duration=1.0
        )

    def copy(self) -> KeptJob:
        """Return the same job in a copy of the machine."""
        return replace(self, printed=list(self.printed))

    def found(self) -> FoundJob:
        """Return it as a guest lists it."""
        stdout, stderr, display = map(len, self.printed)
        return FoundJob(
            id=self.job.id,
            is_running=self.result is None,
            exit_code=self.result.exit_code if self.result else None,
            signal=self.signal,
            elapsed=self.elapsed,
            printed=(stdout, stderr, display),
            note=self.job.note,
        )

    @property
    def takes_input(self) -> bool:
        """Whether it has a terminal, or its standard input stays open."""
        return self.job.attributes.keeps_input or self.job.attributes.terminal is not None

    @property
    def command(self) -> Command:
        """The program that it was started with."""
        return self.job.command


@dataclass(slots=True)
class _Tee:
    """One stream of a program, into what the guest keeps and to the server that follows."""

    kept: KeptJob
    job: GuestJob
    number: int
    stream: JobStream

    def feed(self, data: bytes) -> None:
        self.kept.printed[self.number] += data
        self.job.offsets[self.number] += len(data)
        self.stream.feed(data)

    def skip(self, count: int) -> None:
        self.stream.skip(count)

    def output(self) -> Output:
        return self.stream.output()


def copies(kept: Mapping[str, KeptJob]) -> dict[str, KeptJob]:
    """Return the jobs of a copy of a machine."""
    return {name: job.copy() for name, job in kept.items()}
