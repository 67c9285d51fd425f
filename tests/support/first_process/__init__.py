# SPDX-License-Identifier: Apache-2.0
"""PID 1's channels to the host (kit/guest), compiled for this host and run as a plain process."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import termios
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import program
from tests.support.waiting import until_sync

from waggle.infra.rootfs.kit import GUEST_SOURCES

HERE = Path(__file__).parent
SECONDS = 20.0
END = bytes(8)
_SOURCES = (
    *("supervise", "renew", "ports", "console", "kernel", "vsock", "agent", "identity"),
    *("doors", "clock", "common"),
)
_WRAPPED = ("open", "socket", "bind", "connect", "getpeername", "mount")
_FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1")
_CHECKS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build_first_process(directory: Path) -> Path:
    """Compile it, and the stand-in of the agent, into `directory`."""
    made = directory / "first-process"
    sources = [*(GUEST_SOURCES / f"{name}.c" for name in _SOURCES), HERE / "host.c"]
    wrapped = [f"-Wl,--wrap={name}" for name in _WRAPPED]
    compiler = [program("cc"), *_FLAGS]
    subprocess.run([*compiler, *_CHECKS, *wrapped, "-o", made, *sources], check=True)
    agent = directory / "waggle-agent"
    subprocess.run([*compiler, "-static", "-o", agent, HERE / "agent.c"], check=True)
    return made


def record(name: bytes, data: bytes) -> bytes:
    return struct.pack("<II", len(name), len(data)) + name + data


class Wire:
    """One connection; every read has a deadline."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(SECONDS)
        self.heard = b""

    def until(self, words: bytes) -> bytes:
        """Read until that has come, and return all that has."""
        while words not in self.heard:
            piece = self.end.recv(1 << 16)
            assert piece, f"it ended after {self.heard!r}"
            self.heard += piece
        return self.heard

    def has_ended(self) -> bool:
        """Read to the end, in either way."""
        try:
            while piece := self.end.recv(1 << 16):
                self.heard += piece
        except ConnectionError:
            pass
        return True

    def ask(self, records: bytes) -> int:
        """Return the first byte of the answer to records."""
        self.end.sendall(records + END)
        answer = b""
        while len(answer) < 9:
            piece = self.end.recv(9 - len(answer))
            assert piece, "no answer"
            answer += piece
        return answer[0]


@dataclass
class FirstProcess:
    """PID 1 under way. `consoles` is where it calls; None while nobody listens there."""

    directory: Path
    messages: socket.socket
    consoles: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    _wires: list[Wire] = field(default_factory=list[Wire])
    _calls: int = 0

    def listen(self) -> None:
        self.consoles = socket.socket(socket.AF_UNIX)
        self.consoles.bind(str(self.directory / "host_1"))
        self.consoles.listen(16)
        self.consoles.settimeout(SECONDS)

    def deafen(self) -> None:
        if self.consoles is not None:
            self.consoles.close()
            (self.directory / "host_1").unlink()
            self.consoles = None

    def console(self) -> Wire:
        """Accept a call."""
        assert self.consoles is not None
        return self._keep(self.consoles.accept()[0])

    def is_called(self, seconds: float) -> bool:
        assert self.consoles is not None
        return bool(select.select([self.consoles], [], [], seconds)[0])

    def call(self, port: int, cid: int = 2) -> Wire:
        """Call a port of the guest from there, once it listens."""
        self._calls += 1
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(self.directory / f"cid{cid}_{self._calls}"))
        until_sync((self.directory / f"guest_{port}").exists)
        made.connect(str(self.directory / f"guest_{port}"))
        return self._keep(made)

    def _keep(self, end: socket.socket) -> Wire:
        self._wires.append(Wire(end))
        return self._wires[-1]

    def complain(self, level: int, text: str) -> None:
        """Have the kernel say something."""
        self.messages.send(f"{level},1,5000001,-;{text}\n SUBSYSTEM=x\n".encode())

    def processor_seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waiting_bytes(self) -> int:
        """Return how much of what was said it has not taken yet."""
        assert self.process is not None
        pipe = os.open(f"/proc/{self.process.pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
        try:
            count = array.array("i", [0])
            fcntl.ioctl(pipe, termios.FIONREAD, count)
            return count[0]
        finally:
            os.close(pipe)

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(SECONDS)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.deafen()
        for wire in self._wires:
            wire.end.close()


@contextmanager
def first_process(
    binary: Path, directory: Path, *, words: str = "quiet waggle.channels=vsock", deaf: bool = False
) -> Generator[FirstProcess]:
    """Run it without standard streams, as the kernel starts one that has no console."""
    (directory / "cmdline").write_text(f"{words}\n")
    (directory / "waggle-agent").hardlink_to(binary.with_name("waggle-agent"))
    (directory / "agent.json").touch()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    made = FirstProcess(directory, ours)
    with ours, theirs:
        if not deaf:
            made.listen()
        made.process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$0" <&- >&- 2>&-', str(binary)],
            env={
                "DIRECTORY": str(directory),
                "MESSAGES": str(theirs.fileno()),
                "ASAN_OPTIONS": "detect_leaks=0",
            },
            pass_fds=[theirs.fileno()],
        )
        try:
            yield made
        finally:
            made.close()
