# SPDX-License-Identifier: Apache-2.0
"""A run of a program in a guest: the command, its result, and how its output is cut. Pure.

Also the programs that runs have left running, as the guest reports them, and the recording of
output and archives, which `waggle.infra.shared.spool` implements.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.programs.runtime import NUL_HINT, check_variable_names, encoded

MAX_COMMAND = 200
"""Characters of a program's command."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that still runs: the root of its process tree, and the run that left it.

    `command` is its words or, where it has none, its name; control characters are replaced.
    """

    pid: int
    command: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Left:
    """Programs that runs have left running: some of them, and the count of all."""

    programs: tuple[Program, ...] = ()
    count: int = 0

    def without(self, runs: frozenset[str]) -> Left:
        """Return only those that other runs have left."""
        kept = tuple(program for program in self.programs if program.run_id not in runs)
        return Left(kept, self.count - len(self.programs) + len(kept))

    def of(self, run_id: str) -> tuple[Program, ...]:
        """Return those that one run has left."""
        return tuple(program for program in self.programs if program.run_id == run_id)


NOTHING_LEFT = Left()


MAX_CODE_BYTES = 512_000
MAX_STDIN_BYTES = 10 * 1024 * 1024
MAX_HEADER_BYTES = 120_000
MIN_OUTPUT, MAX_OUTPUT = 100, 200_000
"""Characters of both streams that a caller may ask a result to show."""
HOME = "/home/sandbox"
"""A directory of the user that programs run as, in every guest; relative paths count from it."""


class GuestUser(StrEnum):
    """The user that runs a command inside the guest.

    SANDBOX is the user that programs run as: the image's own where it names one.
    """

    SANDBOX = "sandbox"
    ROOT = "root"


@dataclass(frozen=True, slots=True)
class Command:
    """One command for the guest.

    `argv` is run without a shell; `{shell}` as its first word is the image's own, `{login}` the
    user's. `code`, if given, is written to a fresh file, whose path replaces the word `{file}` in
    argv and which is removed afterwards. It lies in `cwd`, or `apart` in a separate directory,
    where `{runner.py}` and `{runner.js}` make an interpreter take it for a file of `cwd`. When
    `cwd` is None, the command runs where the image has programs start. `timeout` is seconds. The
    result holds `output_limit` bytes of each stream, unless output goes elsewhere. Raises
    InvalidArgument or TooLarge.
    """

    argv: tuple[str, ...]
    timeout: float
    output_limit: int = 200_000
    code: bytes | None = None
    extension: str = ""
    apart: bool = False
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    stdin: bytes = b""
    user: GuestUser = GuestUser.SANDBOX

    def __post_init__(self) -> None:
        """Refuse an impossible command before anything is started."""
        words = (*self.argv, self.cwd or "", *self.env.keys(), *self.env.values())
        if not self.argv:
            raise InvalidArgument("A command needs a program.", hint="Name one, such as ls.")
        if any("\0" in word for word in words):
            raise InvalidArgument("A command's words cannot contain NUL.", hint=NUL_HINT)
        check_variable_names(self.env)
        size = sum(len(encoded(word, "A word or variable")) + 1 for word in words)
        if size > MAX_HEADER_BYTES:
            raise TooLarge(
                f"Arguments and environment are over {MAX_HEADER_BYTES} bytes together.",
                hint="Put what is long into stdin, or into a file with write_file.",
            )
        if len(self.stdin) > MAX_STDIN_BYTES:
            raise TooLarge(
                f"Standard input is over {MAX_STDIN_BYTES} bytes.",
                hint="Put it into files of the environment, in parts, and read them from there.",
            )


@dataclass(frozen=True, slots=True)
class Output:
    """The kept part of one stream: all of it, or its head and tail when it was longer.

    `total` is the bytes the stream had; without it, nothing was cut.
    """

    head: bytes
    tail: bytes = b""
    total: int = 0

    def __post_init__(self) -> None:
        """Set `total` to the bytes that are kept, unless it is larger."""
        object.__setattr__(self, "total", max(self.total, len(self.head) + len(self.tail)))

    @property
    def dropped(self) -> int:
        """Bytes cut out of the middle."""
        return self.total - len(self.head) - len(self.tail)

    def text(self) -> str:
        """Return the stream as text; bytes that are not UTF-8 become U+FFFD, and a cut is marked.

        The mark gives the bytes that were cut. A character that the cut split is left out.
        """
        if not self.dropped:
            return (self.head + self.tail).decode("utf-8", "replace")
        head = codecs.getincrementaldecoder("utf-8")("replace").decode(self.head)
        tail = self.tail[_continuation(self.tail) :].decode("utf-8", "replace")
        return f"{head}\n[... {self.dropped} of {self.total} bytes cut ...]\n{tail}"


def _continuation(data: bytes) -> int:
    """Return how many bytes at the start continue an earlier UTF-8 character: at most 3."""
    count = 0
    while count < min(3, len(data)) and data[count] & 0xC0 == 0x80:
        count += 1
    return count


class Stream(Protocol):
    """Takes one output stream of a command while it runs. Bounded, whatever is fed."""

    def feed(self, data: bytes) -> None:
        """Take the next piece. Called on the event loop; must not block for long."""
        ...

    def output(self) -> Output:
        """Return what is kept so far, cut to what a result may hold."""
        ...


class Recording(Stream, Protocol):
    """A stream that can be read again while it is written."""

    def skip(self, count: int) -> None:
        """Note that the next `count` bytes were printed but not kept."""
        ...

    @property
    def total(self) -> int:
        """The number of bytes that were written."""
        ...

    @property
    def kept(self) -> int:
        """The number of bytes kept of its beginning."""
        ...

    @property
    def tail(self) -> int:
        """The offset at which the kept end begins; nothing is kept between `kept` and that."""
        ...

    @property
    def disk_full(self) -> bool:
        """Whether bytes were not kept because the server's disk is full."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes; fewer at the end. Raises ValueError if not kept."""
        ...

    def last_line(self) -> str:
        """Return the last line that is not empty. The guest wrote it: do not trust it."""
        ...

    def close(self) -> None:
        """Free the kept bytes. Idempotent."""
        ...


NewRecording = Callable[[], Recording]


@dataclass(frozen=True, slots=True)
class Streams:
    """The destinations of a command's output."""

    stdout: Stream
    stderr: Stream


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How a command ended: exactly one of `exit_code`, `signal` and `timed_out` is set.

    `exit_code` is None when a signal or the timeout ended it. `duration` is seconds. `run_id` is
    the guest's name for this run, under which it remembers why the run failed. `left` is what still
    runs in the background. `context_ended` says that the interpreter which ran it ended first.
    """

    stdout: Output
    stderr: Output
    exit_code: int | None
    signal: str | None
    timed_out: bool
    duration: float
    run_id: str = ""
    left: Left = NOTHING_LEFT
    context_ended: bool = False


def parse_code(code: str) -> bytes:
    """Return code as the bytes of a file. Raises InvalidArgument or TooLarge.

    Lone surrogates (JSON can carry them) are not text in any encoding, and NUL would silently end
    the program for some interpreters.
    """
    data = encoded(code, "The code")
    if not data.strip():
        raise InvalidArgument("The code is empty.", hint="Give the whole program as code.")
    if len(data) > MAX_CODE_BYTES:
        raise TooLarge(
            f"The code is {len(data)} bytes; the limit is {MAX_CODE_BYTES}.",
            hint="Put data into a file with write_file and read it from the code.",
        )
    if b"\0" in data:
        raise InvalidArgument(
            "The code contains a NUL byte.", hint="Write it as an escape, such as \\x00 in Python."
        )
    return data


def parse_output(value: int | None, default: int) -> int:
    """Return how many characters of output to show. Raises InvalidArgument."""
    if value is None:
        return default
    if not MIN_OUTPUT <= value <= MAX_OUTPUT:
        raise InvalidArgument(
            f"max_output must be {MIN_OUTPUT} to {MAX_OUTPUT:,}.",
            hint=f"Leave it out for {default:,}; read_job reads all of a long output.",
        )
    return value


def parse_seconds(value: float | None, default: float, maximum: float) -> float:
    """Return a timeout in seconds. Raises InvalidArgument unless 0 < value <= maximum."""
    if value is None:
        return default
    if not 0 < value <= maximum:
        raise InvalidArgument(
            f"timeout_seconds must be more than 0 and at most {maximum:g}.",
            hint="Leave it out for the default; split work that takes longer.",
        )
    return value
