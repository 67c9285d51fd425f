# SPDX-License-Identifier: Apache-2.0
"""Plays the kit for a context's driver: FIFOs for requests and answers, pipes for each cell.

Tests of drivers (tests/infra/rootfs/kit) use it with this host's interpreters. A cell's pipes are
held by a process of its own, as by the shim in a guest; the driver opens them by its process id.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

PATIENCE = 20.0
"""Seconds until a driver that does not answer fails a test."""


@dataclass(frozen=True)
class Ended:
    """What a cell answered and printed. `status` is None when the driver ended instead."""

    status: int | None
    out: str
    err: str
    displays: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class _Reader(threading.Thread):
    """Reads a pipe to its end, from when it may."""

    def __init__(self, fd: int, may_read: threading.Event) -> None:
        super().__init__(daemon=True)
        self.fd, self.may_read, self.data = fd, may_read, bytearray()
        self.is_gone = False
        self.start()

    def run(self) -> None:
        self.may_read.wait()
        while not self.is_gone and (piece := os.read(self.fd, 1 << 16)):
            self.data += piece
        os.close(self.fd)


class Cell:
    """A cell that was asked for: its pipes, and the process that holds them."""

    def __init__(self, directory: Path, stdin: bytes | None, is_read: bool) -> None:
        self.id = str(uuid.uuid4())
        self.directory = directory
        self.may_read = threading.Event()
        if is_read:
            self.may_read.set()
        pipes = [os.pipe() for _ in range(4)]
        ends = [pipes[0][0], *(write for _, write in pipes[1:])]
        self.pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, file_actions=moves(ends))
        for end in ends:
            os.close(end)
        self.readers = [_Reader(read, self.may_read) for read, _ in pipes[1:]]
        self.stdin = pipes[0][1]
        if stdin is not None:
            os.write(self.stdin, stdin)
            os.close(self.stdin)

    def release(self) -> None:
        """End the process that holds the pipes, as when a job is over."""
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def hang_up(self) -> None:
        """Close the reading ends, of a cell without `is_read`."""
        for reader in self.readers:
            reader.is_gone = True
        self.may_read.set()
        for reader in self.readers:
            reader.join(PATIENCE)

    def printed(self, text: str, stream: int = 1) -> None:
        """Wait until the cell has printed `text`."""
        until = time.monotonic() + PATIENCE
        while text.encode() not in self.readers[stream - 1].data:
            assert time.monotonic() < until, self.readers[stream - 1].data[-1000:]
            threading.Event().wait(0.005)

    def is_over(self, seconds: float) -> bool:
        """Return whether nothing holds the cell's pipes, after so many seconds at most."""
        self.may_read.set()
        for reader in self.readers:
            reader.join(seconds)
        return not any(reader.is_alive() for reader in self.readers)

    def ended(self, status: int | None, *, whole: bool = True) -> Ended:
        """Return what was printed: all of it, or until now if something may hold the pipes."""
        self.release()
        self.may_read.set()
        for reader in self.readers:
            reader.join(PATIENCE if whole else 0)
            assert not (whole and reader.is_alive()), "something holds the cell's pipes"
        out, err, display = (bytes(reader.data) for reader in self.readers)
        return Ended(status, out.decode(), err.decode(), parse_displays(display))


def moves(ends: Sequence[int]) -> list[tuple[int, ...]]:
    """Return what makes a new process have these descriptors as 0, 1, 2 and so on."""
    apart = [(os.POSIX_SPAWN_DUP2, end, 500 + fd) for fd, end in enumerate(ends)]
    back = [(os.POSIX_SPAWN_DUP2, 500 + fd, fd) for fd in range(len(ends))]
    return [*apart, *back, *((os.POSIX_SPAWN_CLOSE, 500 + fd) for fd in range(len(ends)))]


def parse_displays(data: bytes) -> list[dict[str, Any]]:
    """Split what a driver wrote to its display descriptor."""
    found: list[dict[str, Any]] = []
    while data:
        size = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + size
        found.append(json.loads(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


class Driver:
    """A running driver: `with Driver(["sh", script], place, ".sh") as it: it.run("x=1")`."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        place: Path,
        extension: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.place, self.extension = place, extension
        self.cwd = place / "work"
        self.cwd.mkdir(parents=True)
        self.cells: list[Cell] = []
        self._exit: int | None = None
        self._buffer = b""
        pipes = [place / "requests", place / "answers"]
        for pipe in pipes:
            os.mkfifo(pipe)
        # One side of a FIFO opens when the other is open: both are held until each has its own.
        held = [os.open(pipe, os.O_RDWR) for pipe in pipes]
        ends = [os.open(pipes[0], os.O_RDONLY), os.open(pipes[1], os.O_WRONLY)]
        self.requests = os.open(pipes[0], os.O_WRONLY)
        self._answers = os.open(pipes[1], os.O_RDONLY)
        self.log = place / "log"
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        words = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.cwd, *argv]
        self.pid = os.posix_spawn(
            "/bin/sh",
            [str(word) for word in words],
            {**os.environ, **(env or {})},
            file_actions=moves([null, log, log, *ends]),
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGPIPE],
        )
        for end in (*held, *ends, log, null):
            os.close(end)

    def __enter__(self) -> Self:
        assert self.line() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        for cell in self.cells:
            cell.release()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._reap()
        for fd in (self.requests, self._answers):
            with suppress(OSError):
                os.close(fd)

    def ask(
        self,
        code: str | bytes,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = b"",
        is_read: bool = True,
        extension: str | None = None,
    ) -> Cell:
        """Send a cell. `stdin=None` leaves it open; without `is_read`, nothing reads yet."""
        directory = self.place / "cells" / str(len(self.cells))
        directory.mkdir(parents=True)
        data = code.encode() if isinstance(code, str) else code
        (directory / f"main{extension or self.extension}").write_bytes(data)
        if env is not None:
            text = "".join(f"{name}={value}\0" for name, value in env.items())
            (directory / "env").write_text(text)
        if cwd is not None:
            (directory / "cwd").write_text(str(cwd))
        cell = Cell(directory, stdin, is_read)
        self.cells.append(cell)
        self.send(f"{cell.id} {cell.pid} {directory}\n")
        return cell

    def wait(self, cell: Cell, *, whole: bool = True) -> Ended:
        """Wait for the cell's answer, or for the driver's end."""
        return self._ended(cell, self.line(), whole=whole)

    @staticmethod
    def _ended(cell: Cell, line: str | None, *, whole: bool) -> Ended:
        if line is None:
            return cell.ended(None, whole=whole)
        name, status = line.split(" ")
        assert name == cell.id
        return cell.ended(int(status), whole=whole)

    def run(self, code: str | bytes, **options: Any) -> Ended:
        """Run a cell to its end."""
        return self.wait(self.ask(code, **options))

    def send(self, line: str) -> None:
        """Write to the driver as the kit would."""
        os.write(self.requests, line.encode())

    def line(self) -> str | None:
        """Return the next answer, or None when the driver has ended."""
        until = time.monotonic() + PATIENCE
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], until - time.monotonic())
            assert ready, f"no answer: {self.log.read_text()[-2000:]}"
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def logged(self, text: str) -> None:
        """Wait until the driver has printed `text` on its own output."""
        until = time.monotonic() + PATIENCE
        while text not in self.log.read_text():
            assert time.monotonic() < until, self.log.read_text()[-2000:]
            threading.Event().wait(0.005)

    def interrupt(self) -> None:
        """Send SIGINT to the process group, as the kit does."""
        os.killpg(self.pid, signal.SIGINT)

    def interrupted(self, cell: Cell, *, whole: bool = True) -> Ended:
        """Interrupt a cell until it answers: a shell may start a program just after the signal.

        That program may also hold the cell's pipes after the answer, so it is interrupted, too.
        """
        for _ in range(int(PATIENCE)):
            self.interrupt()
            if self._buffer or select.select([self._answers], [], [], 1.0)[0]:
                break
        line = self.line()
        for _ in range(int(PATIENCE) if whole and line is not None else 0):
            cell.release()
            if cell.is_over(1.0):
                break
            self.interrupt()
        return self._ended(cell, line, whole=whole)

    def exit_status(self) -> int:
        """Wait for the driver's end and return its status, negative for a signal."""
        until = time.monotonic() + PATIENCE
        while not self._has_ended(os.WNOHANG):
            assert time.monotonic() < until, "the driver goes on"
            threading.Event().wait(0.005)
        assert self._exit is not None
        return self._exit

    def is_alive(self) -> bool:
        """Whether the driver goes on."""
        return not self._has_ended(os.WNOHANG)

    def _reap(self) -> None:
        self._has_ended(0)

    def _has_ended(self, options: int) -> bool:
        if self._exit is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._exit = os.waitstatus_to_exitcode(status)
        return self._exit is not None
