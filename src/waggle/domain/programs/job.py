# SPDX-License-Identifier: Apache-2.0
"""A job: one run of a program as its owner sees it, during the run and afterwards.

Every execution is a job with a number; a call that does not wait for the end returns the number.
`waggle.service.programs.jobs` runs jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import NOTHING_LEFT, Left, Output
from waggle.domain.programs.display import NO_DISPLAYS, DisplayRecords, Displays

MAX_WAIT_SECONDS = 300.0
"""The longest wait of one call; clients give up on silent calls sooner or later."""
MAX_SUMMARY = 80
PAUSED = "paused"
"""The status of a running job whose environment is paused."""
MAX_INPUT_BYTES = 1 << 20
"""The most bytes that one call writes to a job's standard input."""
SIGNALS = {
    "HUP": 1,
    "INT": 2,
    "QUIT": 3,
    "KILL": 9,
    "USR1": 10,
    "USR2": 12,
    "ALRM": 14,
    "TERM": 15,
    "CONT": 18,
    "STOP": 19,
    "TSTP": 20,
    "WINCH": 28,
}
"""The signals that callers send, with the numbers that Linux guests have for them."""


class JobKind(StrEnum):
    """The tool that started the job; or it is an interpreter that calls share, or a terminal."""

    EXECUTE = "execute"
    COMMAND = "run_command"
    INSTALL = "install_packages"
    CONTEXT = "context"
    TERMINAL = "terminal"


class JobState(StrEnum):
    """How a job ended, or that it still runs."""

    RUNNING = "running"
    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    LOST = "lost"


class StreamName(StrEnum):
    """One of a program's two output streams."""

    STDOUT = "stdout"
    STDERR = "stderr"


DISPLAYS: Final = "displays"
Recorded = StreamName | Literal["displays"]
"""What grows as a program prints: one of its streams, or DISPLAYS."""


@dataclass(frozen=True, slots=True)
class JobView:
    """The state of a job at one time.

    `number` counts from 1 in its environment. `duration` is seconds, so far or in all. `exit_code`
    is set for EXITED, `signal` for SIGNALED; `error` says why it is LOST, as with its environment.
    A KILLED job was ended by its owner. `ends_at` is when it is killed at the latest, known while
    it runs. `is_queued` says that it waits for jobs before it, `is_paused` that its environment is
    paused. `diagnosis` says why it failed, where that is known. `left` is what it left running when
    it ended. `displays` are its rich outputs.
    """

    environment_id: str
    number: int
    kind: JobKind
    summary: str
    state: JobState
    duration: float
    stdout: Output
    stderr: Output
    exit_code: int | None = None
    signal: str | None = None
    error: str = ""
    diagnosis: Diagnosis | None = None
    left: Left = NOTHING_LEFT
    ends_at: datetime | None = None
    is_queued: bool = False
    is_paused: bool = False
    displays: Displays | DisplayRecords = NO_DISPLAYS

    @property
    def size(self) -> int:
        """The bytes of the guest that it holds, as a measure of the work to show them."""
        shown = (self.stdout, self.stderr)
        records = self.displays.data if isinstance(self.displays, DisplayRecords) else b""
        return sum(len(output.head) + len(output.tail) for output in shown) + len(records)

    @property
    def is_running(self) -> bool:
        """Whether it still runs, or is paused."""
        return self.state is JobState.RUNNING

    @property
    def status(self) -> str:
        """Its state, or PAUSED."""
        return PAUSED if self.is_paused else self.state.value


@dataclass(frozen=True, slots=True)
class JobBrief:
    """A job in a list: as `JobView`, with the count of bytes printed instead of the output."""

    number: int
    kind: JobKind
    summary: str
    state: JobState
    duration: float
    exit_code: int | None
    stdout_bytes: int
    stderr_bytes: int
    is_paused: bool = False

    @property
    def status(self) -> str:
        """Its state, or PAUSED."""
        return PAUSED if self.is_paused else self.state.value


def summarise(text: str) -> str:
    """Return the first meaningful line of a program, for a list. Pure."""
    lines = map(str.strip, text.splitlines())
    line = next((line for line in lines if line and not line.startswith("```")), "")
    shown = "".join(c if c.isprintable() else "\ufffd" for c in line[: MAX_SUMMARY + 1])
    return shown if len(shown) <= MAX_SUMMARY else shown[: MAX_SUMMARY - 3] + "..."


def parse_signal(name: str) -> int:
    """Return a signal's number by its name, such as INT or sigint. Raises InvalidArgument."""
    number = SIGNALS.get(name.strip().upper().removeprefix("SIG"))
    if number is None:
        raise InvalidArgument(
            f"There is no signal {name[:40]!r} to send.",
            hint=f"Use one of {', '.join(SIGNALS)}, or none to end the job with all its processes.",
        )
    return number


def parse_wait(value: float | None, default: float) -> float:
    """Return how many seconds a call waits. Raises InvalidArgument unless 0 <= value <= 300."""
    if value is None:
        return default
    if not 0 <= value <= MAX_WAIT_SECONDS:
        raise InvalidArgument(
            f"wait_seconds must be at least 0 and at most {MAX_WAIT_SECONDS:g}.",
            hint="A longer run continues as a job; read_job waits for it again.",
        )
    return value
