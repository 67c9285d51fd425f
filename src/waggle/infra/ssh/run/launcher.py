# SPDX-License-Identifier: Apache-2.0
"""The formats of the kit's launcher (rootfs/kit/guest) and the collectors of a command's output.

`frame` encodes a command (frame.c); `parse_record` reads the record of a failed run (why.c), and
`parse_left` the list of programs left running (left.c). Pure, apart from `CommandSession`, which
`Shell` gives to asyncssh. Root in the guest can write all of these answers, so they are parsed
strictly and bounded: a record that why.c would not write counts as absent.
"""

from __future__ import annotations

import asyncio
import re
import struct
from dataclasses import replace

import asyncssh

from waggle.domain.diagnosis import NO_RECORD, RunFacts, Space
from waggle.domain.programs import (
    MAX_COMMAND,
    NOTHING_LEFT,
    Command,
    GuestUser,
    Left,
    Output,
    Program,
    Streams,
)
from waggle.domain.programs.guest_job import Attributes
from waggle.infra.ssh.asyncssh_internals import STDERR

MAX_RECORD = 8_192
"""Bytes of a record; why.c never prints more."""
_MAX_PATH = 512
_MAX_DIGITS = 20
_COUNTS = {
    **dict.fromkeys(("exit", "signal", "exec", "directory", "oom", "unrouted", "unheard"), 1),
    **dict.fromkeys(("forks", "disk", "inodes", "shm"), 2),
    "memory": 3,
}
MAX_PROGRAMS = 64
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_PATHS = frozenset({"file", "needs", "crlf"})


def parse_record(data: bytes, run_id: str) -> RunFacts:
    """Return the run's record; NO_RECORD if it is another run's or not a record at all."""
    lines = data[: MAX_RECORD + 1].decode("utf-8", "replace").split("\n")
    if len(data) > MAX_RECORD or lines[0] != f"id {run_id}" or lines[-1]:
        return NO_RECORD
    numbers: dict[str, list[int]] = {}
    paths: dict[str, str] = {}
    have: frozenset[str] | None = None
    for line in lines[1:-1]:
        key, _, rest = line.partition(" ")
        values = rest.split(" ")
        if key in numbers or key in paths:
            return NO_RECORD
        if key == "have" and have is None:
            have = frozenset(rest.split()[:MAX_PROGRAMS])
        elif key in _PATHS and len(rest) <= _MAX_PATH:
            paths[key] = rest
        elif len(values) == _COUNTS.get(key) and all(map(_is_number, values)):
            numbers[key] = [int(value) for value in values]
        else:
            return NO_RECORD
    return replace(_record(numbers, paths), have=have)


def is_program(name: str) -> bool:
    """Whether the guest may be asked about a program of this name."""
    return _PROGRAM.fullmatch(name) is not None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _record(numbers: dict[str, list[int]], paths: dict[str, str]) -> RunFacts:
    def one(key: str) -> int | None:
        return numbers[key][0] if key in numbers else None

    def space(key: str) -> Space | None:
        return Space(*numbers[key]) if key in numbers else None

    peak, limit, shared = numbers.get("memory", [0, 0, 0])
    refused, processes = numbers.get("forks", [0, 0])
    return RunFacts(
        exit_code=one("exit"),
        signal=one("signal"),
        exec_error=one("exec"),
        directory_error=one("directory"),
        file=paths.get("file", ""),
        needs=paths.get("crlf", paths.get("needs", "")),
        needs_carriage_return="crlf" in paths,
        oom_kills=one("oom") or 0,
        memory_peak=peak,
        memory_limit=limit,
        memory_shared=shared,
        forks_refused=refused,
        process_limit=processes,
        disk=space("disk"),
        inodes=space("inodes"),
        shm=space("shm"),
        unrouted=one("unrouted") or 0,
        unheard=one("unheard") or 0,
    )


MAX_LEFT = 64 << 10
"""Bytes of a list; left.c never prints more."""
_LINE = re.compile(r"([0-9a-f-]{36}) ([0-9]{1,7}) (.*)")
_ALL = re.compile(r"all ([0-9]{1,6})")


def parse_left(data: bytes) -> Left:
    """Parse the launcher's list; NOTHING_LEFT if it is not one."""
    lines = data[: MAX_LEFT + 1].decode("utf-8", "replace").split("\n")
    if len(data) > MAX_LEFT or len(lines) < 2 or lines[-1]:
        return NOTHING_LEFT
    end = _ALL.fullmatch(lines[-2])
    found = [_LINE.fullmatch(line) for line in lines[:-2]]
    if end is None or None in found or int(end[1]) < len(found):
        return NOTHING_LEFT
    # A program without a name was gone when the launcher looked it up.
    programs = tuple(Program(int(m[2]), _cleaned(m[3]), m[1]) for m in found if m and m[3])
    return Left(programs, int(end[1]) - len(found) + len(programs))


def _cleaned(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:MAX_COMMAND])


def frame(command: Command, attributes: Attributes | None = None, note: bytes = b"") -> bytes:
    """Encode the command as the launcher reads it: a length, then NUL-terminated fields.

    `attributes` and `note` are for a job; its code and standard input follow the frame.
    """
    fields = ["r"] if command.user is GuestUser.ROOT else []
    if command.cwd is not None:
        fields.append(f"d{command.cwd}")
    fields += [f"e{name}={value}" for name, value in command.env.items()]
    fields += [f"a{word}" for word in command.argv]
    if command.code is not None:
        fields += [f"c{len(command.code)}", f"x{command.extension}"]
        fields += ["o"] if command.apart else []
    fields += [] if attributes is None else _job_fields(command, attributes, note)
    body = b"".join(field.encode() + b"\0" for field in fields)
    return struct.pack(">I", len(body)) + body


def _job_fields(command: Command, attributes: Attributes, note: bytes) -> list[str]:
    fields = [f"k{attributes.keep}", f"i{len(command.stdin)}", f"m{note.decode()}"]
    fields += ["I"] if attributes.keeps_input else []
    fields += ["D"] if attributes.has_displays else []
    fields += ["R"] if attributes.has_driver else []
    fields += [f"C{attributes.context}"] if attributes.context else []
    if terminal := attributes.terminal:
        fields.append(f"t{terminal.rows} {terminal.columns}")
    return fields


class OutputCollector:
    """A stream's head and tail: the first `limit` / 2 bytes and the last `limit` / 2 of the rest.

    Uses at most 1.5 times `limit` of memory, however small the pieces are.
    """

    def __init__(self, limit: int) -> None:
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_limit:
            del self._tail[: len(self._tail) - self._tail_limit]

    def skip(self, count: int) -> None:
        """Note bytes that are missing: the head ends before them, and the tail begins after."""
        self._total += count
        self._head_limit = len(self._head)
        self._tail.clear()

    def output(self) -> Output:
        """Return the bytes kept so far."""
        tail = self._tail[max(0, len(self._tail) - self._tail_limit) :]
        return Output(bytes(self._head), bytes(tail), self._total)


class CommandSession(asyncssh.SSHClientSession[bytes]):
    """The collector of one command's output and end. Texts from the guest are bounded."""

    def __init__(self, limit: int, into: Streams | None = None) -> None:
        """Send output `into` streams, or without them collect `limit` bytes of each stream."""
        into = into or Streams(OutputCollector(limit), OutputCollector(limit))
        self.stdout, self.stderr = into.stdout, into.stderr
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.ended = asyncio.Event()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Called by asyncssh with a piece of output."""
        if datatype != STDERR:
            self.stdout.feed(data)
        else:
            self.stderr.feed(data)

    def exit_status_received(self, status: int) -> None:
        """Called by asyncssh when the command exited."""
        self.exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Called by asyncssh when a signal ended the command. The guest chose the texts."""
        self.signal = f"SIG{signal}"[:20] if signal.isalnum() else "unknown"

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncssh when the channel has closed for any reason."""
        self.ended.set()

    @property
    def is_complete(self) -> bool:
        """Whether the guest reported how the command ended before the channel closed."""
        return self.exit_code is not None or self.signal is not None
