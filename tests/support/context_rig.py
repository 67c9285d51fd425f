# SPDX-License-Identifier: Apache-2.0
"""Plays the kit for a context's driver of Python: FIFOs for requests, pipes for a cell's streams.

The process whose streams a cell uses is a helper that only waits, with pipes as its descriptors 0
to 3. Displays are read as the shim reads them.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from waggle.infra.rootfs.kit import GUEST_SOURCES, NOTEBOOK

_SECONDS = 60.0


def lay_runners(directory: Path) -> Path:
    """Copy the runners of Python to a directory, by the names that the kit gives them."""
    directory.mkdir(exist_ok=True)
    for source in GUEST_SOURCES.glob("*.python"):
        prefix = "" if source.stem in {"context", "runner"} else "waggle_"
        shutil.copy(source, directory / f"{prefix}{source.stem}.py")
    shutil.copy(NOTEBOOK, directory / "waggle_notebook.py")
    return directory


def records(data: bytes) -> list[dict[str, Any]]:
    """Return the displays in a stream; pictures as bytes."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        payload = data[at + 4 : at + 4 + length]
        assert len(payload) == length <= 4 << 20
        record = json.loads(payload, parse_constant=_refuse)
        for mime, value in record["data"].items():
            assert isinstance(value, str), mime
            if mime.startswith("image/") and mime != "image/svg+xml":
                record["data"][mime] = base64.b64decode(value, validate=True)
        found.append(record)
        at += 4 + length
    return found


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def _hold(streams: list[int]) -> int:
    """Start a process that has these as its descriptors from 0 on, and close them here."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in streams]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high)]
    holder = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, file_actions=actions)
    for fd in (*streams, *high):
        os.close(fd)
    return holder


@dataclass
class Cell:
    """What came of a cell. `status` is None for one that was not answered."""

    status: int | None
    out: str
    err: str
    displays: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass
class Running:
    """A cell that was asked for: the ends of its pipes that are the test's, and what was read."""

    id: str
    holder: int
    stdin: int
    read: dict[int, bytearray]


class ContextRig:
    """A driver that runs, and all that it needs. Use it as a context manager."""

    def __init__(
        self, place: Path, python: str = sys.executable, *, warm: str = "", **environment: str
    ) -> None:
        self._place, self.python, self.environment = place, python, environment
        self._count, self._warm = 0, warm
        self._answers = b""
        self.runners = place / "runners"
        self.work = place / "work"
        self.home = place / "home"

    def __enter__(self) -> Self:
        for directory in (self.work, self.home):
            directory.mkdir(parents=True)
        lay_runners(self.runners)
        ends = [self._fifo(name) for name in ("requests", "answers")]
        self._requests, self._answering = ends
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,
        }
        self._own = (self._place / "own").open("wb")
        argv = [self.python, str(self.runners / "context.py")]
        if self._warm:
            argv.append(self._warm)
        self.driver = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$@" 3<"$0/requests" 4>"$0/answers"', str(self._place), *argv],
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._own,
            stderr=self._own,
            start_new_session=True,
        )
        said, _, _ = select.select([self._answering], [], [], _SECONDS)
        assert said, self.printed
        assert os.read(self._answering, len(b"ready\n")) == b"ready\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.driver.poll() is None:
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        for fd in (self._requests, self._answering):
            os.close(fd)
        self._own.close()

    def _fifo(self, name: str) -> int:
        path = self._place / name
        os.mkfifo(path)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def printed(self) -> str:
        """What came on the context's own output, between cells."""
        return (self._place / "own").read_text()

    def ask(self, line: bytes) -> None:
        """Write a request as it is."""
        os.write(self._requests, line)

    def end_requests(self) -> None:
        """Close the kit's end of the requests."""
        os.close(self._requests)
        self._requests = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def answer_to(self, line: bytes) -> str:
        """Return the answer to a request of one's own."""
        self.ask(line)
        return os.read(self._answering, 100).decode()

    def abandon(self, cell: Running) -> None:
        """End a cell's streams, and wait for its answer."""
        os.write(cell.stdin, b"\n")
        self.close(cell, None)
        assert os.read(self._answering, 100).decode().split()[0] == cell.id

    def start(self, code: str, *, env: str = "", cwd: str = "") -> Running:
        """Ask for a cell."""
        self._count += 1
        directory = self._place / f"cell-{self._count}"
        directory.mkdir()
        (directory / "main.py").write_text(code)
        if env:
            (directory / "env").write_text(env)
        if cwd:
            (directory / "cwd").write_text(cwd)
        stdin, ours = os.pipe()
        pipes = [os.pipe() for _ in range(3)]
        holder = _hold([stdin, *(written for _, written in pipes)])
        name = str(uuid.uuid4())
        self.ask(f"{name} {holder} {directory}\n".encode())
        return Running(name, holder, ours, {pipe[0]: bytearray() for pipe in pipes})

    def wait(self, cell: Running, *, until: bytes = b"", stdin: bytes = b"") -> Cell:
        """Read a cell's output until its answer, the driver's end, or these bytes on stdout."""
        if stdin:
            os.write(cell.stdin, stdin)
        first = next(iter(cell.read))
        deadline = time.monotonic() + _SECONDS
        while not (until and until in cell.read[first]):
            assert time.monotonic() < deadline, (cell.read, self.printed)
            is_over = self._answers.endswith(b"\n") or self.driver.poll() is not None
            if not self._take(cell, 0.0 if is_over else 0.1) and is_over:
                return self._ended(cell)
        return self._result(cell, None)

    def _take(self, cell: Running, seconds: float) -> bool:
        taken = False
        with selectors.DefaultSelector() as selector:
            for fd in (*cell.read, self._answering):
                selector.register(fd, selectors.EVENT_READ)
            for key, _ in selector.select(seconds):
                data = os.read(key.fd, 1 << 20)
                if key.fd == self._answering:
                    self._answers += data
                else:
                    cell.read[key.fd] += data
                if data:
                    taken = True
                elif key.fd != self._answering:
                    selector.unregister(key.fd)
        return taken

    def _ended(self, cell: Running) -> Cell:
        answer, self._answers = self._answers, b""
        if not answer:
            return self.close(cell, None)
        name, status = answer.decode().split()
        assert name == cell.id
        return self.close(cell, int(status))

    def _result(self, cell: Running, status: int | None) -> Cell:
        out, err, display = (bytes(read) for read in cell.read.values())
        return Cell(status, out.decode(), err.decode(), records(display))

    def close(self, cell: Running, status: int | None) -> Cell:
        """End the holder of a cell's streams and return what was read."""
        os.kill(cell.holder, signal.SIGKILL)
        os.waitpid(cell.holder, 0)
        os.close(cell.stdin)
        for fd in cell.read:
            os.close(fd)
        return self._result(cell, status)

    def run(self, code: str, *, stdin: bytes = b"", env: str = "", cwd: str = "") -> Cell:
        """Run a cell to its answer."""
        return self.wait(self.start(code, env=env, cwd=cwd), stdin=stdin)

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        os.killpg(self.driver.pid, signal.SIGINT)
