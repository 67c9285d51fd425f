# SPDX-License-Identifier: Apache-2.0
"""A pretend EnvironmentHost for tests of service, mcp and web: no machine, no time, no network.

`FakeHost` makes `FakeGuest`s. A guest keeps files in a dict and "runs" code written in a tiny line
language (see `FakeGuest.run`). Failures are attributes to set; waiting is done on events that
the test sets, so nothing here ever sleeps. Everything that happened is recorded in lists.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

from waggle.domain.environment import Environment, MachineIdentity
from waggle.domain.errors import FileNotFound, FileRefused, GuestLost, TooLarge
from waggle.domain.execution import HOME, Command, ExecutionResult, Output
from waggle.domain.filesystem import MAX_LIST_ENTRIES, FileEntry, Listing
from waggle.domain.host import Progress

Program = Callable[[Command], Awaitable[ExecutionResult]]
MODIFIED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def output(data: bytes, limit: int) -> Output:
    """`data` as it is kept of a stream: cut in the middle when it is over `limit` bytes."""
    if len(data) <= limit:
        return Output(head=data, total=len(data))
    half = limit // 2
    return Output(head=data[:half], tail=data[len(data) - half :], total=len(data))


@dataclass(slots=True)
class FakeFile:
    data: bytes
    mode: int


@dataclass(slots=True)
class FakeGuest:
    """A guest. Set `run_error`, `file_error` or `destroy_error` to make those calls fail.

    `programs` maps argv[0] to what runs instead of the line language. `started` is set when a
    `hang` line begins, `release` ends it; `cancelled` lists the commands that were cancelled.
    """

    environment: Environment
    ssh_port: int
    machine: MachineIdentity
    booted_from: dict[str, str]
    files: dict[str, FakeFile] = field(default_factory=dict[str, FakeFile])
    directories: set[str] = field(default_factory=lambda: {"/", "/home", HOME, "/tmp"})
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    commands: list[Command] = field(default_factory=list[Command])
    cancelled: list[Command] = field(default_factory=list[Command])
    started: anyio.Event = field(default_factory=anyio.Event)
    release: anyio.Event = field(default_factory=anyio.Event)
    was_cancelled: anyio.Event = field(default_factory=anyio.Event)
    run_error: Exception | None = None
    file_error: Exception | None = None
    destroy_error: Exception | None = None
    destroys: int = 0
    dead: anyio.Event = field(default_factory=anyio.Event)
    cause: str = ""

    def die(self, cause: str = "killed by signal 9") -> None:
        """The machine ends by itself."""
        self.cause = cause
        self.dead.set()

    async def run(self, command: Command) -> ExecutionResult:
        """Run `command.code`, line by line; without code, print argv.

        Lines: `echo X`, `err X`, `flood N` (N bytes), `stdin`, `env NAME`, `cwd`, `exit N`,
        `signal NAME`, `timeout` (it timed out here), `hang` (until `release` is set), `die`.
        Any other line is a failure of the pretend interpreter: stderr and exit code 1.
        """
        self.commands.append(command)
        if self.run_error is not None:
            raise self.run_error
        try:
            program = self.programs.get(command.argv[0])
            return await (program or self._interpret)(command)
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(command)
            self.was_cancelled.set()
            raise

    async def _interpret(self, command: Command) -> ExecutionResult:
        await anyio.lowlevel.checkpoint()
        run = _Run(self, command)
        lines = [" ".join(command.argv)] if command.code is None else []
        run.out.extend(line.encode() for line in lines)
        for line in (command.code or b"").decode().splitlines():
            if line.strip() and not await run.step(*line.strip().partition(" ")[::2]):
                break
        return run.result()

    def _enter(self) -> None:
        if self.dead.is_set():
            raise GuestLost(f"The machine died: {self.cause}")
        if self.file_error is not None:
            raise self.file_error

    async def write_file(self, path: str, data: bytes, mode: int) -> None:
        await anyio.lowlevel.checkpoint()
        self._enter()
        path = posixpath.normpath(path)
        if path in self.directories:
            raise FileRefused(f"{path} is a directory.")
        parent = posixpath.dirname(path)
        while parent not in self.directories:
            if parent in self.files:
                raise FileRefused(f"{parent} is not a directory.")
            self.directories.add(parent)
            parent = posixpath.dirname(parent)
        self.files[path] = FakeFile(data, mode)

    async def read_file(self, path: str, limit: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        self._enter()
        path = posixpath.normpath(path)
        if path in self.directories:
            raise FileRefused(f"{path} is a directory.")
        if path not in self.files:
            raise FileNotFound(f"There is no file {path}.")
        data = self.files[path].data
        if len(data) > limit:
            raise TooLarge(f"{path} is {len(data)} bytes; the limit is {limit}.")
        return data

    async def list_files(self, path: str) -> Listing:
        await anyio.lowlevel.checkpoint()
        self._enter()
        path = posixpath.normpath(path)
        if path not in self.directories:
            raise FileNotFound(f"There is no directory {path}.")
        children = sorted(
            child
            for child in (*self.files, *self.directories)
            if child != "/" and posixpath.dirname(child) == path
        )
        entries = tuple(self._entry(child) for child in children[:MAX_LIST_ENTRIES])
        return Listing(path, entries, truncated=len(children) > MAX_LIST_ENTRIES)

    def _entry(self, path: str) -> FileEntry:
        file = self.files.get(path)
        return FileEntry(
            name=posixpath.basename(path),
            size=len(file.data) if file else 4096,
            is_dir=file is None,
            is_link=False,
            mode=file.mode if file else 0o755,
            modified=MODIFIED,
        )

    async def wait_dead(self) -> str:
        await self.dead.wait()
        return self.cause

    async def destroy(self) -> None:
        self.destroys += 1
        if self.destroy_error is not None:
            raise self.destroy_error
        if not self.dead.is_set():
            self.die("destroyed")


@dataclass(slots=True)
class _Run:
    """One execution of the line language."""

    guest: FakeGuest
    command: Command
    out: list[bytes] = field(default_factory=list[bytes])
    err: list[bytes] = field(default_factory=list[bytes])
    exit_code: int | None = 0
    signal: str | None = None
    timed_out: bool = False

    async def step(self, verb: str, rest: str) -> bool:
        """Run one line; False when the program ended."""
        command = self.command
        match verb:
            case "echo":
                self.out.append(rest.encode() + b"\n")
            case "err":
                self.err.append(rest.encode() + b"\n")
            case "flood":
                self.out.append(b"x" * int(rest))
            case "stdin":
                self.out.append(command.stdin)
            case "env":
                self.out.append(command.env.get(rest, "").encode() + b"\n")
            case "cwd":
                self.out.append(command.cwd.encode() + b"\n")
            case "hang":
                self.guest.started.set()
                await self.guest.release.wait()
            case "die":
                self.guest.die()
                raise GuestLost(f"The machine died: {self.guest.cause}")
            case _:
                return self._end(verb, rest)
        return True

    def _end(self, verb: str, rest: str) -> bool:
        match verb:
            case "exit":
                self.exit_code = int(rest)
            case "signal":
                self.exit_code, self.signal = None, rest
            case "timeout":
                self.exit_code, self.timed_out = None, True
            case _:
                self.err.append(f"no such word: {verb}\n".encode())
                self.exit_code = 1
        return False

    def result(self) -> ExecutionResult:
        limit = self.command.output_limit
        return ExecutionResult(
            stdout=output(b"".join(self.out), limit),
            stderr=output(b"".join(self.err), limit),
            exit_code=self.exit_code,
            signal=self.signal,
            timed_out=self.timed_out,
            duration=0.25,
        )


@dataclass(slots=True)
class FakeHost:
    """Makes guests. Set `create_error` to fail every create, `hold` to keep creates waiting.

    `creating` is set when a create begins; `guests` holds every guest ever made, by environment
    id; `discarded` and `undone` the ids of `discard` calls and of failed or cancelled creates.
    """

    guests: dict[str, FakeGuest] = field(default_factory=dict[str, FakeGuest])
    create_error: Exception | None = None
    hold: anyio.Event | None = None
    creating: anyio.Event = field(default_factory=anyio.Event)
    reason: str | None = None
    discard_error: Exception | None = None
    discarded: list[str] = field(default_factory=list[str])
    undone: list[str] = field(default_factory=list[str])
    create_undone: anyio.Event = field(default_factory=anyio.Event)
    steps: Sequence[tuple[float, str]] = ((0.1, "preparing"), (0.5, "booting"), (1.0, "ready"))
    prepare: Callable[[FakeGuest], None] = lambda _guest: None

    @property
    def only(self) -> FakeGuest:
        """The one guest there is."""
        (guest,) = self.guests.values()
        return guest

    async def create(self, environment: Environment, progress: Progress) -> FakeGuest:
        self.creating.set()
        try:
            for share, message in self.steps:
                await progress(share, message)
            if self.hold is not None:
                await self.hold.wait()
            await anyio.lowlevel.checkpoint()
            if self.create_error is not None:
                raise self.create_error
        except BaseException:
            self.undone.append(environment.id)
            self.create_undone.set()
            raise
        number = len(self.guests)
        guest = FakeGuest(
            environment=environment,
            ssh_port=10_000 + number,
            machine=MachineIdentity(pid=4_000_000 + number, started=number, boot_id="fake"),
            booted_from={"image": "sha256:fake", "kernel": "fake"},
        )
        self.prepare(guest)
        self.guests[environment.id] = guest
        return guest

    async def discard(self, environment: Environment) -> None:
        await anyio.lowlevel.checkpoint()
        if self.discard_error is not None:
            raise self.discard_error
        self.discarded.append(environment.id)

    async def not_ready(self) -> str | None:
        await anyio.lowlevel.checkpoint()
        return self.reason


@dataclass(slots=True)
class MemoryStore:
    """An EnvironmentStore that forgets with the process. `save_error` makes saving fail."""

    records: dict[str, Environment] = field(default_factory=dict[str, Environment])
    save_error: Exception | None = None
    closed: bool = False

    async def save(self, environment: Environment) -> None:
        await anyio.lowlevel.checkpoint()
        if self.save_error is not None:
            raise self.save_error
        self.records[environment.id] = environment

    async def get(self, environment_id: str) -> Environment | None:
        await anyio.lowlevel.checkpoint()
        return self.records.get(environment_id)

    async def unfinished(self) -> Sequence[Environment]:
        await anyio.lowlevel.checkpoint()
        return [e for e in self.records.values() if e.state != "destroyed"]

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True
