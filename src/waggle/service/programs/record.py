# SPDX-License-Identifier: Apache-2.0
"""What is known of one job, and its views for callers. The part of `Job` that waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import anyio

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import WaggleError
from waggle.domain.observer import Clock
from waggle.domain.programs import (
    NOTHING_LEFT,
    Command,
    ExecutionResult,
    NewRecording,
    Output,
    Recording,
)
from waggle.domain.programs.context import ContextKey
from waggle.domain.programs.display import records_of
from waggle.domain.programs.guest_job import Attributes, FoundJob, GuestJob, JobStreams
from waggle.domain.programs.job import JobBrief, JobKind, JobState, JobView, StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.programs.notes import Note

INSTALLS = "install"
"""The queue of installations."""


@dataclass(frozen=True, slots=True)
class What:
    """A description, for its owner, of what a job runs.

    Jobs with an equal `queue` run one after the other in their environment. While one with a `turn`
    runs or waits, a start with an equal `turn` returns that job. `context` is the live interpreter
    that this is, or that it runs in.
    """

    kind: JobKind
    summary: str
    turn: tuple[str, ...] = ()
    queue: str = ""
    attributes: Attributes = field(default_factory=Attributes)
    context: ContextKey | None = None


def adopted_what(note: Note) -> What:
    """Return what a job is that its guest has already, by its note."""
    if not note.context or note.language not in [*RuntimeName]:
        return What(note.kind, note.summary, queue=INSTALLS * (note.kind is JobKind.INSTALL))
    key = ContextKey(note.context, RuntimeName(note.language), note.user)
    queue = "" if note.kind is JobKind.CONTEXT else key.queue
    attributes = Attributes(context=note.context_id)
    return What(note.kind, note.summary, queue=queue, attributes=attributes, context=key)


@dataclass(frozen=True, slots=True)
class Watched:
    """A recording that calls `grown` after every feed."""

    recording: Recording
    grown: Callable[[], None]

    def feed(self, data: bytes) -> None:
        """Keep the data and call `grown`."""
        self.recording.feed(data)
        self.grown()

    def skip(self, count: int) -> None:
        """Note bytes that are missing, and call `grown`."""
        self.recording.skip(count)
        self.grown()

    def output(self) -> Output:
        """Return the recording's output."""
        return self.recording.output()


class JobRecord:
    """A job as it is known now."""

    def __init__(
        self,
        environment_id: str,
        note: Note,
        what: What,
        command: Command,
        record: NewRecording,
        clock: Clock,
        *,
        run_id: str,
    ) -> None:
        self.environment_id = environment_id
        self.number = note.number
        self.note = note
        self.what = what
        self.run_id = run_id
        """The guest's name for it."""
        self.streams = {name: record() for name in (StreamName.STDOUT, StreamName.STDERR)}
        self.display = record()
        """The records of its rich output; see `waggle.domain.programs.display`."""
        self.failure: Exception | None = None
        """The error of the guest, for the call that started the job."""
        self.limit = note.limit
        """Seconds after which it is killed."""
        self.guest_job = GuestJob(
            id=run_id,
            command=command,
            streams=JobStreams(
                self.streams[StreamName.STDOUT], self.streams[StreamName.STDERR], self.display
            ),
            remaining=note.limit,
            attributes=what.attributes,
            note=note.encode(),
        )
        self._clock = clock
        self._began_at: datetime | None = clock()
        """From when its seconds count; None while it waits for jobs before it."""
        self._ended_at: datetime | None = None
        self._state = JobState.RUNNING
        self._result: ExecutionResult | None = None
        self._diagnosis: Diagnosis | None = None
        self._paused = anyio.Event()
        self._paused_at: datetime | None = None
        self._paused_for = 0.0
        self._unread: FoundJob | None = None
        self.refused_within: Callable[[float], Diagnosis | None] = lambda _seconds: None
        """Returns what its environment was refused in the last seconds."""

    @property
    def is_running(self) -> bool:
        """Whether it still runs, or is paused with its environment."""
        return self._state is JobState.RUNNING

    @property
    def is_queued(self) -> bool:
        """Whether it waits for jobs before it."""
        return self.is_running and self._began_at is None

    @property
    def is_new(self) -> bool:
        """Whether its guest may not have it yet, and gets it without waiting for other jobs."""
        return self.is_running and not (self.is_queued or self.guest_job.is_started)

    def queue(self) -> None:
        """Note that it waits for jobs before it."""
        self._began_at = None

    def begin(self, elapsed: float = 0.0) -> None:
        """Count its seconds from now, or as if it had run for `elapsed` already."""
        self._began_at = self._clock() - timedelta(seconds=elapsed)
        self._paused_for = 0.0
        if self._paused_at is not None:
            self._paused_at = self._began_at

    @property
    def is_context(self) -> bool:
        """Whether it is a context that lives."""
        return self.is_running and self.what.kind is JobKind.CONTEXT

    @property
    def is_paused(self) -> bool:
        """Whether it is paused with its environment, and continues when that is resumed."""
        return self.is_running and self._paused_at is not None

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, if this server saw that."""
        return self._ended_at

    @property
    def is_work(self) -> bool:
        """Whether it keeps its environment from being idle: a context or terminal does not."""
        return self.is_running and self.what.kind not in (JobKind.CONTEXT, JobKind.TERMINAL)

    @property
    def state(self) -> JobState:
        """Its state now."""
        return self._state

    @property
    def has_left(self) -> bool:
        """Whether it left programs running when it ended."""
        return self._result is not None and self._result.left.count > 0

    def forget_left(self) -> None:
        """Note that the programs it left have been killed, so that no result names them."""
        if self._result is not None:
            self._result = replace(self._result, left=NOTHING_LEFT)

    @property
    def kept_bytes(self) -> int:
        """The bytes of output that it holds."""
        return sum(stream.kept for stream in (*self.streams.values(), self.display))

    def printed(self, name: StreamName) -> int:
        """Return how many bytes it has printed there."""
        if self._unread is not None:
            return self._unread.printed[0 if name is StreamName.STDOUT else 1]
        return self.streams[name].total

    @property
    def displayed(self) -> int:
        """The bytes of records of displays that it has printed."""
        return self._unread.printed[2] if self._unread is not None else self.display.total

    def set_paused(self, paused: bool) -> None:
        """Note that its environment is paused, which ends all waits, or runs again."""
        if paused and self._paused_at is None:
            self._paused_at = self._clock()
            self._paused.set()
        elif not paused and self._paused_at is not None:
            self._paused_for += (self._clock() - self._paused_at).total_seconds()
            self._paused_at, self._paused = None, anyio.Event()

    def view(self) -> JobView:
        """Return what is known now."""
        result = self._result
        return JobView(
            environment_id=self.environment_id,
            number=self.number,
            kind=self.what.kind,
            summary=self.what.summary,
            state=self._state,
            duration=self._duration(),
            stdout=self.streams[StreamName.STDOUT].output(),
            stderr=self.streams[StreamName.STDERR].output(),
            exit_code=result.exit_code if result else None,
            signal=result.signal if result else None,
            error=_words(self.failure),
            diagnosis=self._refused_so_far() if self.is_work else self._diagnosis,
            left=result.left if result else NOTHING_LEFT,
            ends_at=self._ends_at(),
            is_queued=self.is_queued,
            is_paused=self.is_paused,
            displays=records_of(self.display, ended=not self.is_running),
        )

    def brief(self) -> JobBrief:
        """Return what is known now, without reading its output."""
        result, unread = self._result, self._unread
        return JobBrief(
            number=self.number,
            kind=self.what.kind,
            summary=self.what.summary,
            state=self._state,
            duration=self._duration(),
            exit_code=result.exit_code if result else unread.exit_code if unread else None,
            stdout_bytes=self.printed(StreamName.STDOUT),
            stderr_bytes=self.printed(StreamName.STDERR),
            is_paused=self.is_running and self._paused_at is not None,
        )

    def _refused_so_far(self) -> Diagnosis | None:
        """Return what was refused since it began, so that nobody waits for a program in vain."""
        if self._began_at is None:
            return None
        return self.refused_within((self._clock() - self._began_at).total_seconds())

    def _duration(self) -> float:
        if self._result is not None:
            return self._result.duration
        if self._unread is not None:
            return self._unread.elapsed
        if self._began_at is None:
            return 0.0
        seconds = ((self._ended_at or self._clock()) - self._began_at).total_seconds()
        return max(0.0, seconds - self._paused_seconds())

    def _ends_at(self) -> datetime | None:
        if self._began_at is None or not self.is_running:
            return None
        return self._began_at + timedelta(seconds=self.limit + self._paused_seconds())

    def _paused_seconds(self) -> float:
        if self._paused_at is None:
            return self._paused_for
        return self._paused_for + (self._clock() - self._paused_at).total_seconds()

    def close(self) -> None:
        """Free its output. Idempotent."""
        for stream in (*self.streams.values(), self.display):
            stream.close()


def _words(error: Exception | None) -> str:
    if error is None:
        return ""
    return error.message if isinstance(error, WaggleError) else "internal error"
