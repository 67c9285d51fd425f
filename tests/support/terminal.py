# SPDX-License-Identifier: Apache-2.0
"""A shell of a fake guest, and real clients of its terminal over a websocket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import anyio
from tests.support.guest import FakeGuest
from tests.support.kept_jobs import KeptJob
from tests.support.server import MODERN, Rig, client, created
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from waggle.domain.programs import Command, ExecutionResult
from waggle.domain.programs.guest_job import JobStream, JobStreams


@dataclass(slots=True)
class FakeShell:
    """A shell for every guest of a host; give `prepare` to `FakeHost`.

    It is the program app as well. It echoes what is typed. Lines: `exit N`, `kill NAME` (it ends by
    that signal), `flood N` (N bytes). Ctrl-C is shown as ^C.
    """

    commands: list[Command] = field(default_factory=list[Command])
    lines: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    ends: dict[str, tuple[int | None, str | None]] = field(
        default_factory=dict[str, "tuple[int | None, str | None]"]
    )
    ended: dict[str, anyio.Event] = field(default_factory=dict[str, anyio.Event])

    def prepare(self, guest: FakeGuest) -> None:
        for name in ("{login}", "app"):
            guest.programs[name] = partial(self.run, guest)
        guest.typed = self.typed

    async def run(self, guest: FakeGuest, command: Command, into: JobStreams) -> ExecutionResult:
        key = next(kept.job.id for kept in guest.kept.values() if kept.streams is into)
        self.commands.append(command)
        if key not in self.lines:
            self.lines[key] = bytearray()
            into.stdout.feed(b"$ ")
        ended = self.ended.setdefault(key, anyio.Event())
        await ended.wait()
        code, signal = self.ends[key]
        return ExecutionResult(into.stdout.output(), into.stderr.output(), code, signal, False, 1.0)

    def typed(self, kept: KeptJob, data: bytes) -> None:
        line = self.lines.setdefault(kept.job.id, bytearray())
        _stdout(kept).feed(data.replace(b"\r", b"\r\n").replace(b"\x03", b"^C"))
        line += data
        while b"\r" in line:
            words = bytes(line[: line.index(b"\r")]).decode().split()
            del line[: line.index(b"\r") + 1]
            self._obey(kept, words)

    def _obey(self, kept: KeptJob, words: Sequence[str]) -> None:
        match words:
            case ["exit", code]:
                self._end(kept, int(code), None)
            case ["kill", name]:
                self._end(kept, None, name)
            case ["flood", size]:
                _stdout(kept).feed(b"x" * int(size))
            case _:
                _stdout(kept).feed(b"$ ")

    def _end(self, kept: KeptJob, code: int | None, signal: str | None) -> None:
        self.ends[kept.job.id] = (code, signal)
        self.ended[kept.job.id].set()


def _stdout(kept: KeptJob) -> JobStream:
    assert kept.streams is not None
    return kept.streams.stdout


@dataclass(slots=True)
class Screen:
    """One client of a terminal."""

    socket: ClientConnection
    data: bytearray = field(default_factory=bytearray)
    texts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def type(self, text: str) -> None:
        await self.socket.send(text.encode())

    async def control(self, **message: object) -> None:
        await self.socket.send(json.dumps(message))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until the condition holds."""
        with anyio.fail_after(20):
            while not condition():
                message = await self.socket.recv()
                if isinstance(message, bytes):
                    self.data += message
                else:
                    self.texts.append(cast("dict[str, Any]", json.loads(message)))

    async def shows(self, text: str) -> None:
        await self.until(lambda: text.encode() in self.data)

    async def says(self, **message: object) -> None:
        await self.until(lambda: message in self.texts)

    async def closed(self) -> int:
        """Read to the end, and return the code of the close."""
        with contextlib.suppress(ConnectionClosed):
            await self.until(lambda: False)
        assert self.socket.close_code is not None
        return self.socket.close_code

    @property
    def job(self) -> int:
        return int(self.texts[0]["job"])


async def environment(rig: Rig, token: str = "") -> str:
    """Create an environment and return its id."""
    async with client(rig, MODERN, token=token) as connected:
        return await created(connected)


def url(rig: Rig, environment_id: str, **query: object) -> str:
    words = "&".join(f"{name}={value}" for name, value in query.items())
    return f"ws{rig.url[4:]}/environments/{environment_id}/terminal?{words}"


@asynccontextmanager
async def attached(
    rig: Rig,
    environment_id: str,
    *,
    token: str = "",
    origin: str | None = None,
    subprotocols: Sequence[str] | None = None,
    read_limit: int = 1 << 20,
    **query: object,
) -> AsyncGenerator[Screen]:
    """Open a terminal, or attach to the job in the query, and read its first message."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if origin is not None:
        headers["Origin"] = origin
    async with connect(
        url(rig, environment_id, **query),
        additional_headers=headers,
        subprotocols=cast("Any", subprotocols),
        compression=None,
        proxy=None,
        max_queue=16,
        max_size=read_limit,
        close_timeout=5,
    ) as socket:
        screen = Screen(socket)
        await screen.until(lambda: bool(screen.texts))
        yield screen
