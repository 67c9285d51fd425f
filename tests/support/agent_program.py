# SPDX-License-Identifier: Apache-2.0
"""The guest agent, compiled for this host, and a channel to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from lab.store import key_of
from tests.support.programs import program

from waggle.infra.rootfs.kit import AGENT_SOURCES
from waggle.infra.shared.files import FileLock

ALL: Mapping[str, object] = {
    "methods": {"allow": ["*"]},
    "read": {"allow": ["/"]},
    "write": {"allow": ["/"]},
    "exec": [{"path": "*", "arguments": ["**"]}],
    "users": ["root", "nobody"],
    "limits": {"output_bytes": 262144, "timeout_seconds": 60, "requests": 16, "processes": 16},
    "audit": [],
}
"""A policy that allows everything."""
SECONDS = 20.0
BUILD_SECONDS = 120.0
_CHECKS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build_agent(directory: Path, *flags: str) -> Path:
    """Compile the agent into `directory`; a fault of memory or arithmetic ends it loudly."""
    made = directory / "waggle-agent"
    compiler = [program("cc"), *(flags or _CHECKS)]
    subprocess.run([AGENT_SOURCES / "build.sh", made, *compiler], check=True)
    return made


def built_agent(factory: pytest.TempPathFactory, *flags: str) -> Path:
    """Return the agent, compiled once with these flags for all workers and modules of a run."""
    own = factory.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own  # workers' are side by side
    directory = place / key_of("agent", *flags)
    with FileLock(directory.with_suffix(".lock"), timeout=BUILD_SECONDS):
        if not directory.exists():
            half = Path(tempfile.mkdtemp(dir=place))
            build_agent(half, *flags)
            half.rename(directory)
    return directory / "waggle-agent"


@dataclass
class Agent:
    """An agent that runs, and the host's end of its channel. One test's."""

    process: subprocess.Popen[bytes]
    wire: socket.socket
    start: Callable[[], subprocess.Popen[bytes]] | None = None
    _rest: bytearray = field(default_factory=bytearray)
    _next: int = 0

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.wire.sendall(data)

    def request(self, method: str, **params: object) -> int:
        """Send a request and return its id."""
        self._next += 1
        message = {"jsonrpc": "2.0", "id": self._next, "method": method, "params": params}
        self.send(json.dumps(message).encode() + b"\n")
        return self._next

    def line(self) -> bytes:
        """Return the next line of the agent. Raises TimeoutError, EOFError."""
        while b"\n" not in self._rest:
            data = self.wire.recv(1 << 16)
            if not data:
                raise EOFError(f"the agent has ended: {self.process.wait(SECONDS)}")
            self._rest += data
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest[:] = rest
        return line

    def message(self) -> dict[str, Any]:
        """Return the next message of the agent, but those with which it begins."""
        while (message := self.any_message()).get("method") == "agent_started":
            pass
        return message

    def any_message(self) -> dict[str, Any]:
        """Return the next message of the agent. Empty lines are none."""
        while not (line := self.line()):
            pass
        return cast("dict[str, Any]", json.loads(line))

    def succeed(self) -> None:
        """Kill it, and start another one at the same channel."""
        assert self.start is not None
        self.process.kill()
        self.process.wait(SECONDS)
        self.process = self.start()

    def answer(self, wanted: int) -> dict[str, Any]:
        """Return the answer to a request; others that come before it are dropped."""
        while (message := self.message()).get("id") != wanted:
            pass
        return message

    def result(self, method: str, **params: object) -> dict[str, Any]:
        """Return the result of a request. Fails if it was refused."""
        answer = self.answer(self.request(method, **params))
        assert "result" in answer, answer
        return cast("dict[str, Any]", answer["result"])

    def error(self, method: str, **params: object) -> dict[str, Any]:
        """Return the error of a request. Fails if there was none."""
        answer = self.answer(self.request(method, **params))
        assert "error" in answer, answer
        return cast("dict[str, Any]", answer["error"])


def full_request(members: int) -> bytes:
    """Return a request that is refused, of which so many members take memory meanwhile."""
    params = {"path": "/a/../b", **{f"a{number}": 0 for number in range(members)}}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "file_read", "params": params}).encode()


def resident(pid: int, kind: str = "Pss") -> int:
    """Return the bytes of memory that a process has to itself, and the code that it uses.

    Its share of the C library depends on how many others use that; `Pss_Anon` is without it.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [found] = [line.split()[1] for line in rollup.splitlines() if line.startswith(f"{kind}:")]
    return int(found) * 1024


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def running_agent(
    agent: Path,
    directory: Path,
    *policies: Mapping[str, object],
    prefix: tuple[str, ...] = (),
    has_successors: bool = False,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> Generator[Agent]:
    """Run an agent with policies, by default one that allows everything; end it afterwards.

    `prefix` is a command in front of it, such as `unshare`. With successors, `succeed` works, and
    the channel stays as it is between two of them, as with PID 1 of waggle's environments. With
    SOCK_SEQPACKET the host receives what the agent wrote at once.
    """
    files: list[str] = []
    for number, policy in enumerate(policies or (ALL,)):
        file = directory / f"policy-{number}.json"
        file.write_text(json.dumps(policy))
        files += ["--policy", str(file)]
    ours, theirs = socket.socketpair(type=kind)
    ours.settimeout(SECONDS)
    with ours, theirs:
        argv = [*prefix, str(agent), "--fd", str(theirs.fileno()), *files]
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=environment)

        running = Agent(start(), ours, start if has_successors else None)
        if not has_successors:
            theirs.close()
        try:
            yield running
        finally:
            ours.close()
            theirs.close()
            try:
                running.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait(SECONDS)
