# SPDX-License-Identifier: Apache-2.0
"""Attacks on a real server over loopback, and their effects on another owner and the server.

`attacked(server, ...)` runs attackers in threads while a victim lists the tools, and returns the
victim's waits and refusals and the server's memory. Closes everything that it opens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.server import request

ACCEPT = "application/json, text/event-stream"
LIST = json.dumps(request("tools/list")).encode()
PATIENCE = 30.0


@dataclass(frozen=True)
class Target:
    """A server, and the token of its client; empty if it needs none."""

    url: str
    token: str = ""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def head(self, length: int | None, path: str = "/mcp", method: str = "POST") -> bytes:
        """Build the head of a request whose body has `length` bytes."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Accept: {ACCEPT}"]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        if length is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        return "\r\n".join([*lines, "", ""]).encode()

    def post(self, body: bytes) -> int:
        """Send a body and return the answer's status; 0 if the connection breaks before that."""
        with self.connect() as line:
            with contextlib.suppress(OSError):  # refused before all was sent: there is an answer
                line.sendall(self.head(len(body)))
                line.sendall(body)
            try:
                return int(line.recv(12).split()[1])
            except (OSError, IndexError):
                return 0


@dataclass
class Effects:
    """The results of the victim's requests, and the server's state. Seconds and MiB."""

    waits: list[float] = field(default_factory=list[float])
    statuses: list[int] = field(default_factory=list[int])
    stall: float = 0.0
    """The longest wait for the public liveness page: about as long as the event loop was
    blocked."""
    before: float = 0.0
    peak: float = 0.0
    after: float = 0.0

    @property
    def refused(self) -> int:
        return sum(status != 200 for status in self.statuses)

    @property
    def grown(self) -> float:
        return self.peak - self.before

    def p99(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)] if self.waits else float("inf")

    def __str__(self) -> str:
        return (
            f"{len(self.waits)} lists, {self.refused} refused, p99 {self.p99() * 1e3:.0f} ms, "
            f"worst {max(self.waits, default=0) * 1e3:.0f} ms, stall {self.stall * 1e3:.0f} ms, "
            f"memory {self.before:.0f} MiB, +{self.grown:.0f} at its peak, "
            f"+{self.after - self.before:.0f} afterwards"
        )


Attack = Callable[[Target, threading.Event], None]
"""Runs until the event is set."""


def attacked(
    attacker: Target,
    victim: Target,
    pid: int,
    attack: Attack,
    *,
    seconds: float,
    at_once: int = 1,
    calm: float = 0.0,
) -> Effects:
    """Run `attack` in `at_once` threads for `seconds`, then wait up to `calm` s for recovery.

    Continues until the victim got two answers, since a busy machine may need longer for that.
    """
    effects, over, twice = Effects(before=memory(pid)), threading.Event(), threading.Event()
    threads = [
        *(threading.Thread(target=attack, args=(attacker, over)) for _ in range(at_once)),
        threading.Thread(target=_lists, args=(victim, over, effects, twice)),
        threading.Thread(target=_watches, args=(victim, over, effects, pid)),
    ]
    for thread in threads:
        thread.start()
    over.wait(seconds)
    twice.wait(PATIENCE)
    over.set()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + calm
    effects.after = memory(pid)
    while time.monotonic() < deadline and effects.after > effects.before * 1.15:
        threading.Event().wait(0.2)
        effects.after = memory(pid)
    return effects


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no such process")


def _lists(victim: Target, over: threading.Event, effects: Effects, twice: threading.Event) -> None:
    """List the tools repeatedly, each time on a new connection like a new client."""
    while not over.wait(0.02):
        began = time.perf_counter()
        try:
            with victim.connect() as line:
                line.sendall(victim.head(len(LIST)) + LIST)
                answer = http.client.HTTPResponse(line)
                answer.begin()
                answer.read()
                effects.statuses.append(answer.status)
        except (OSError, http.client.HTTPException):
            effects.statuses.append(0)
        effects.waits.append(time.perf_counter() - began)
        if len(effects.waits) == 2:
            twice.set()


def _watches(target: Target, over: threading.Event, effects: Effects, pid: int) -> None:
    line = http.client.HTTPConnection(*target.address, timeout=PATIENCE)
    with contextlib.closing(line):
        while not over.wait(0.005):
            began = time.perf_counter()
            try:
                line.request("GET", "/healthz")
                line.getresponse().read()
            except (OSError, http.client.HTTPException):
                line.close()
            effects.stall = max(effects.stall, time.perf_counter() - began)
            effects.peak = max(effects.peak, memory(pid))


def repeated(body: bytes) -> Attack:
    """Send `body` repeatedly."""

    def attack(target: Target, over: threading.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                target.post(body)

    return attack


def padded(start: bytes, unit: bytes, end: bytes, size: int) -> Attack:
    """Send a body of almost `size` bytes, mostly `unit`, which is made only when it is sent."""

    def attack(target: Target, over: threading.Event) -> None:
        body = start + unit * ((size - len(start) - len(end)) // len(unit)) + end
        repeated(body)(target, over)

    return attack


def unfinished(size: int) -> Attack:
    """Send all but the last byte of a body and wait; send it again after a disconnect."""

    def attack(target: Target, over: threading.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), target.connect() as line:
                line.settimeout(0.2)
                _send(line, target.head(size) + b'{"a":"' + b"x" * (size - 7), over)
                _wait(line, over)

    return attack


def _send(line: socket.socket, data: bytes, over: threading.Event) -> None:
    view = memoryview(data)
    while view and not over.is_set():
        with contextlib.suppress(TimeoutError):
            view = view[line.send(view[: 1 << 18]) :]


def _wait(line: socket.socket, over: threading.Event) -> None:
    while not over.is_set():
        try:
            if not line.recv(4096):
                return
        except TimeoutError:
            continue


def idle(connections: int, sent: Callable[[Target], bytes] = lambda _target: b"") -> Attack:
    """Hold connections that all sent `sent`, and reopen closed ones."""

    def attack(target: Target, over: threading.Event) -> None:
        lines: list[socket.socket] = []
        try:
            while not over.is_set():
                lines = [line for line in lines if not _ended(line)]
                while len(lines) < connections and not over.is_set():
                    with contextlib.suppress(OSError):
                        line = target.connect()
                        lines.append(line)
                        line.sendall(sent(target))
                        line.setblocking(False)
                over.wait(0.1)
        finally:
            for line in lines:
                line.close()

    return attack


def _ended(line: socket.socket) -> bool:
    try:
        line.setblocking(False)
        while line.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    line.close()
    return True


def called(tool: str, arguments: bytes) -> bytes:
    """Return the body of a call with these arguments, as JSON."""
    return (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%s","arguments":%s}}'
        % (tool.encode(), arguments)
    )


def attacks(size: int) -> dict[str, tuple[Attack, int]]:
    """Return every attack with bodies, and its number of threads; `size` is that of one body."""
    start, end = called("create_environment", b'{"files":[@[]]}').split(b"@")
    inside, out = called("write_file", b'{"path":"a","content":"@"}').split(b"@")
    deep = b"[" * 190 + b"]" * 190 + b","
    return {
        "lists": (padded(start, b"[],", end, size), 1),
        "four of lists": (padded(start, b"[],", end, size), 4),
        "nested lists": (padded(start, deep, end, size), 4),
        "objects": (padded(start, b"{},", end, size), 4),
        "numbers": (padded(start, b"1.5,", end, size), 4),
        "long numbers": (padded(start, b"1" * 4000 + b",", end, size), 4),
        "strings": (padded(start, b'"",', end, size), 4),
        "escapes": (padded(inside, b"\\u00e9", out, size), 4),
        "quotes": (padded(inside, b'\\"', out, size), 4),
        "wide characters": (padded(inside + "😀".encode(), b"a", out, size), 4),
        "spaces": (padded(start, b" ", end, size), 4),
        "a list in a string": (padded(start[:-1] + b'"[', b"[],", b'[]]"}}}', size), 4),
        "unfinished bodies": (unfinished(size), 8),
    }
