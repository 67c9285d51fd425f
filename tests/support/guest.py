# SPDX-License-Identifier: Apache-2.0
"""A fake guest: files in a dict, and code in a tiny line language (see `FakeGuest.run`).

Tests set attributes to cause failures and set events to end waits, so nothing here ever sleeps.
Lists record everything that happened. Made by `tests.support.fakes.FakeHost`.
"""

from __future__ import annotations

import copy
import posixpath
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from tests.support.fake_contexts import FakeContext, ended
from tests.support.kept_jobs import KeptJob, copies

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.environment import Environment
from waggle.domain.errors import (
    DiskFull,
    FileNotFound,
    FileRefused,
    GuestLost,
    GuestMisbehaves,
    InvalidArgument,
    TooLarge,
)
from waggle.domain.files import (
    DEFAULT_MODE,
    MAX_LIST_ENTRIES,
    FileEntry,
    FileSlice,
    FileVersion,
    Listing,
)
from waggle.domain.files.search import Kind, Match, Searched, SearchQuery, glob_expression
from waggle.domain.files.tree import Skipped, TreeEntry, Unpacked, decode, encode
from waggle.domain.host import Names
from waggle.domain.machine import ExposedPort, ResourceUse, VmmProcess
from waggle.domain.programs import (
    HOME,
    NOTHING_LEFT,
    Command,
    ExecutionResult,
    GuestUser,
    Left,
    Output,
    Stream,
    Streams,
)
from waggle.domain.programs import Program as KitProgram
from waggle.domain.programs.guest_job import Detached, FoundJob, GuestJob, JobStreams, Terminal
from waggle.tasks import together

Program = Callable[[Command, Any], Awaitable[ExecutionResult]]
"""A test's program; it gets `Streams`, or `JobStreams` if it is a job's."""
USED = ResourceUse(cpu_seconds=1.5, memory_bytes=200 << 20, disk_bytes=3 << 20)
MODIFIED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def output(data: bytes, limit: int) -> Output:
    """Return `data` as a stream keeps it: cut in the middle if it is over `limit` bytes."""
    if len(data) <= limit:
        return Output(head=data, total=len(data))
    half = limit // 2
    return Output(head=data[:half], tail=data[len(data) - half :], total=len(data))


@dataclass(slots=True)
class Kept:
    """A stream that shows `limit` bytes of its input."""

    limit: int
    data: bytes = b""

    def feed(self, data: bytes) -> None:
        self.data += data

    def output(self) -> Output:
        return output(self.data, self.limit)


@dataclass(slots=True, eq=False)
class Watch:
    """One watch of a fake guest. `end` is set to end it."""

    changed: Callable[[Names], None]
    end: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True)
class FakeFile:
    data: bytes
    mode: int


@dataclass(slots=True)
class FakeFrozenMachine:
    """A copy of a guest's files, jobs and contexts; `ended` once its block is left."""

    files: dict[str, FakeFile]
    kept: dict[str, KeptJob] = field(default_factory=dict[str, KeptJob])
    contexts: dict[str, FakeContext] = field(default_factory=dict[str, FakeContext])
    ended: bool = False
    directory: Path = Path("/nowhere")


@dataclass(slots=True)
class FakeGuest:
    """A guest. Set `run_error`, `file_error` or `destroy_error` to make those calls fail.

    `file_hold` keeps reads of files waiting, after they set `started`. `programs` maps argv[0] to a
    program that runs instead of the line language. `started` is set when a `hang` line begins,
    `release` ends it; `cancelled` lists the cancelled commands. `listing` and `searched` override
    the answers of `list_files` and `search`; `packed` are records that `pack_tree` adds. `left` are
    the programs that `leave` lines left running. `watching` holds the open watches by path, which
    `hang_up` ends as a pause does; `watched` lists all paths ever. `listening` holds the guest's
    ports that answer, `tried_ports` those that `answers` tried, with the seconds. `kept` are its
    jobs by id, which it lists; `found` overrides that list, `listing_jobs` keeps the answer
    waiting, `start_until` starts of jobs, `follow_until` what jobs printed. `attended` lists the
    ids of those that were followed. `contexts` holds the live interpreters by their jobs' ids; see
    `tests.support.fake_contexts`. `typed` is called with what is written to a job, unless
    `write_error` is set, and `sizes` lists those of terminals.
    """

    environment: Environment
    ssh_port: int
    machine: VmmProcess
    booted_from: dict[str, str]
    files: dict[str, FakeFile] = field(default_factory=dict[str, FakeFile])
    directories: set[str] = field(default_factory=lambda: {"/", "/home", HOME, "/tmp"})
    directory: str = HOME
    user_home: str = HOME
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    commands: list[Command] = field(default_factory=list[Command])
    cancelled: list[Command] = field(default_factory=list[Command])
    started: anyio.Event = field(default_factory=anyio.Event)
    release: anyio.Event = field(default_factory=anyio.Event)
    was_cancelled: anyio.Event = field(default_factory=anyio.Event)
    run_error: Exception | None = None
    file_error: Exception | None = None
    file_hold: anyio.Event | None = None
    destroy_error: Exception | None = None
    listing: Listing | None = None
    listing_error: Exception | None = None
    diagnosis: Diagnosis | None = None
    diagnosing: anyio.Event = field(default_factory=anyio.Event)
    diagnose_until: anyio.Event | None = None
    searched: Searched | None = None
    packed: bytes = b""
    left: Left = NOTHING_LEFT
    dying: set[int] = field(default_factory=set[int])
    used: ResourceUse = USED
    ports: dict[int, int] = field(default_factory=dict[int, int])
    visit: Callable[[], None] = lambda: None
    stall: Callable[[DiskFull | None], None] = lambda _why: None
    misbehave: Callable[[GuestMisbehaves], None] = lambda _error: None
    listening: set[int] = field(default_factory=set[int])
    tried_ports: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    found: tuple[FoundJob, ...] | None = None
    listing_jobs: anyio.Event | None = None
    start_until: anyio.Event | None = None
    kept: dict[str, KeptJob] = field(default_factory=dict[str, KeptJob])
    follow_until: anyio.Event | None = None
    attended: list[str] = field(default_factory=list[str])
    contexts: dict[str, FakeContext] = field(default_factory=dict[str, FakeContext])
    written: list[tuple[str, bytes, bool]] = field(default_factory=list[tuple[str, bytes, bool]])
    signals: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    sizes: list[Terminal] = field(default_factory=list[Terminal])
    typed: Callable[[KeptJob, bytes], None] = lambda _kept, _data: None
    write_error: Exception | None = None
    detached: anyio.Event = field(default_factory=anyio.Event)
    destroys: int = 0
    freeze_error: Exception | None = None
    obeyed: list[str] = field(default_factory=list[str])
    dead: anyio.Event = field(default_factory=anyio.Event)
    cause: str = ""
    watching: dict[str, list[Watch]] = field(default_factory=dict[str, "list[Watch]"])
    watched: list[str] = field(default_factory=list[str])
    watch_until: anyio.Event | None = None

    def die(self, cause: str = "killed by signal 9") -> None:
        """End the machine from inside."""
        self.cause = cause
        self.dead.set()
        self.hang_up()

    async def home(self, user: GuestUser = GuestUser.SANDBOX) -> str:
        await anyio.lowlevel.checkpoint()
        return "/root" if user is GuestUser.ROOT else self.user_home

    async def run(
        self, command: Command, into: Streams | JobStreams | None = None, run_id: str = ""
    ) -> ExecutionResult:
        """Run `command.code`, line by line; without code, print argv.

        Lines: `echo X`, `err X`, `flood N` (N bytes), `stdin`, `env NAME`, `cwd`, `exit N`, `signal
        NAME`, `timeout` (the run timed out), `hang` (until `release` is set), `die`, `leave X` (a
        program that keeps running). Any other line fails as in an interpreter: stderr and exit code
        1.
        """
        self.commands.append(command)
        if self.run_error is not None:
            raise self.run_error
        try:
            into = into or Streams(Kept(command.output_limit), Kept(command.output_limit))
            if program := self.programs.get(command.argv[0]):
                return await program(command, into)
            return await self.interpret(command, into, run_id or str(uuid.uuid4()))
        except anyio.get_cancelled_exc_class():
            if not self.detached.is_set():
                self.cancelled.append(command)
                self.was_cancelled.set()
            raise

    async def attend(self, job: GuestJob) -> ExecutionResult:
        """Run a job's program, or go on with it from the line at which it was left."""
        self._enter()
        if self.start_until is not None and not job.is_started:
            await self.start_until.wait()
        kept = self.kept.setdefault(job.id, KeptJob(job))
        job.is_started = True
        job.started()
        self.attended.append(job.id)
        if self.follow_until is not None:
            await self.follow_until.wait()
        streams = kept.followed_by(job)
        if kept.result is None:
            try:
                await self._until_its_end(kept, streams)
            except anyio.get_cancelled_exc_class():
                kept.kill()
                raise
        if kept.result is None:
            raise Detached
        return kept.end(job)

    async def _until_its_end(self, kept: KeptJob, streams: JobStreams) -> None:
        """Run it to its end, or to a pause. Raises GuestLost when the machine dies meanwhile."""

        async def leave() -> None:
            await self.detached.wait()
            group.cancel_scope.cancel()

        async def die() -> None:
            await self.dead.wait()
            if not self.detached.is_set():
                raise GuestLost(f"The machine died: {self.cause}")

        async with together() as group:
            group.start_soon(leave)
            group.start_soon(die)
            kept.result = await self._ran(kept, streams)
            group.cancel_scope.cancel()

    async def _ran(self, kept: KeptJob, streams: JobStreams) -> ExecutionResult:
        """Run it as what it is: a program, an interpreter, or code for one."""
        attributes = kept.job.attributes
        if attributes.has_driver:
            return await self._interpreter(kept.job)
        if attributes.context:
            return await self._cell(kept, streams)
        return await self.run(kept.command, streams, kept.job.id)

    async def _interpreter(self, job: GuestJob) -> ExecutionResult:
        """Be the interpreter of a context until it ends, or is killed."""
        if self.run_error is not None:
            raise self.run_error
        context = self.contexts.setdefault(job.id, FakeContext(job))
        context.job = job
        try:
            await context.ended.wait()
        except anyio.get_cancelled_exc_class():
            if not self.detached.is_set():
                context.end(signal="SIGKILL")
            raise
        return context.result()

    async def _cell(self, kept: KeptJob, streams: JobStreams) -> ExecutionResult:
        """Run code in its context when those before it have ended, as long as that lives."""
        job = kept.job
        if self.run_error is not None:
            raise self.run_error
        context = self.contexts.get(job.attributes.context)
        if context is None or context.is_deaf or context.ended.is_set():
            return ended(job, context_ended=True)
        results: list[ExecutionResult] = []

        async def watch() -> None:
            await context.ended.wait()
            group.cancel_scope.cancel()

        async with context.turn:
            context.cells.append(job.id)
            try:
                async with together() as group:
                    group.start_soon(watch)
                    results.append(await self.run(kept.command, streams, job.id))
                    group.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():
                if not self.detached.is_set():
                    context.interrupt(job)
                raise
        if not results or context.ended.is_set():
            return ended(job, context_ended=True)
        if results[0].timed_out:
            context.interrupt(job)
        return replace(results[0], context_ended=job.lost_context)

    async def jobs(self) -> tuple[FoundJob, ...]:
        """Return its jobs, or those that the test says."""
        await anyio.lowlevel.checkpoint()
        if self.listing_jobs is not None:
            await self.listing_jobs.wait()
        self._enter()
        if self.found is not None:
            return self.found
        return tuple(kept.found() for kept in self.kept.values())

    async def write_input(self, job_id: str, data: bytes, *, close: bool) -> bool:
        await anyio.lowlevel.checkpoint()
        if self.write_error is not None:
            raise self.write_error
        kept = self.kept.get(job_id)
        is_closed = any(end for other, _, end in self.written if other == job_id)
        if kept is None or kept.result or is_closed or not kept.takes_input:
            return False
        self.written.append((job_id, data, close))
        self.typed(kept, data)
        return True

    async def signal(self, job_id: str, number: int) -> bool:
        await anyio.lowlevel.checkpoint()
        kept = self.kept.get(job_id)
        if kept is None or kept.result is not None:
            return False
        self.signals.append((job_id, number))
        return True

    async def resize(self, job_id: str, terminal: Terminal) -> bool:
        await anyio.lowlevel.checkpoint()
        self.sizes.append(terminal)
        return True

    async def left_running(self) -> Left:
        """Return the test's programs; killed ones appear once more, as in a real guest."""
        await anyio.lowlevel.checkpoint()
        self._enter()
        left = self.left
        kept = tuple(program for program in left.programs if program.pid not in self.dying)
        self.left = Left(kept, left.count - len(left.programs) + len(kept))
        self.dying.clear()
        return left

    def leave(self, command: str, run_id: str) -> Left:
        """Leave one more program running and return all programs of this run."""
        pid = 100 + len(self.left.programs)
        programs = (*self.left.programs, KitProgram(pid, command, run_id))
        self.left = Left(programs, len(programs))
        return Left(self.left.of(run_id), len(self.left.of(run_id)))

    async def end_program(self, pid: int) -> bool:
        await anyio.lowlevel.checkpoint()
        found = pid not in self.dying and pid in [program.pid for program in self.left.programs]
        self.dying.add(pid)
        return found

    async def end_run(self, run_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.left = self.left.without(frozenset({run_id}))

    async def diagnose(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Return the test's diagnosis, for a failure, after waiting for `diagnose_until`."""
        self.diagnosing.set()
        if self.diagnose_until is not None:
            await self.diagnose_until.wait()
        await anyio.lowlevel.checkpoint()
        return None if result.exit_code == 0 else self.diagnosis

    async def interpret(
        self, command: Command, into: Streams | JobStreams, run_id: str = "run"
    ) -> ExecutionResult:
        await anyio.lowlevel.checkpoint()
        run = _Run(self, command, into, id=run_id)
        if command.code is None:
            into.stdout.feed(" ".join(command.argv).encode())
        lines = (command.code or b"").decode().splitlines()
        kept = self.kept.get(run_id)
        for at in range(kept.lines_done if kept else 0, len(lines)):
            line = lines[at].strip()
            if line and not await run.step(*line.partition(" ")[::2]):
                break
            if kept is not None:
                kept.lines_done = at + 1
        return run.result()

    def _enter(self) -> None:
        if self.dead.is_set():
            raise GuestLost(f"The machine died: {self.cause}")
        if self.file_error is not None:
            raise self.file_error

    async def write_file(
        self,
        path: str,
        data: bytes,
        mode: int | None = None,
        *,
        unless_changed: FileVersion | None = None,
    ) -> None:
        await anyio.lowlevel.checkpoint()
        self._enter()
        path = posixpath.normpath(path)
        if unless_changed is not None and self._version(path) != unless_changed:
            raise FileRefused(f"{path} changed while it was edited.")
        if path in self.directories:
            raise FileRefused(f"{path} is a directory.")
        parent = posixpath.dirname(path)
        while parent not in self.directories:
            if parent in self.files:
                raise FileRefused(f"{parent} is not a directory.")
            self.directories.add(parent)
            parent = posixpath.dirname(parent)
        if mode is None:
            mode = self.files[path].mode if path in self.files else DEFAULT_MODE
        self.files[path] = FakeFile(data, mode)
        self.change(path)

    def change(self, path: str) -> None:
        """Notify the watches of a file or of a directory above it."""
        for root, watches in self.watching.items():
            if path == root or path.startswith(root.rstrip("/") + "/"):
                for watch in watches:
                    watch.changed(frozenset({path.removeprefix(root).lstrip("/") or path}))

    async def watch(self, path: str, changed: Callable[[Names], None]) -> None:
        """Watch until `hang_up`, or as long as the test says; it begins after `watch_until`."""
        self.watched.append(path)
        await anyio.lowlevel.checkpoint()
        if self.watch_until is not None:
            await self.watch_until.wait()
        self._enter()
        root = posixpath.normpath(path)
        if root not in self.directories and root not in self.files:
            raise FileNotFound(f"There is no {root}.")
        watch = Watch(changed)
        self.watching.setdefault(root, []).append(watch)
        try:
            changed(frozenset())
            await watch.end.wait()
            self._enter()
        finally:
            self.watching[root].remove(watch)
            if not self.watching[root]:
                del self.watching[root]

    def hang_up(self) -> None:
        """End all watches."""
        for watches in self.watching.values():
            for watch in watches:
                watch.end.set()

    async def read_file(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        await anyio.lowlevel.checkpoint()
        if self.file_hold is not None:
            self.started.set()
            await self.file_hold.wait()
        self._enter()
        path = posixpath.normpath(path)
        if path in self.directories:
            raise FileRefused(f"{path} is a directory.")
        if path not in self.files:
            raise FileNotFound(f"There is no file {path}.")
        data = self.files[path].data
        if len(data) > limit:
            raise TooLarge(f"{path} is {len(data)} bytes; the limit is {limit}.")
        return FileSlice(data[offset : offset + length], len(data))

    async def read_version(self, path: str, *, limit: int) -> tuple[bytes, FileVersion]:
        part = await self.read_file(path, offset=0, length=limit, limit=limit)
        return part.data, self._version(path)

    def _version(self, path: str) -> FileVersion:
        file = self.files[posixpath.normpath(path)]
        return FileVersion(len(file.data), int(MODIFIED.timestamp()), file.mode)

    async def search(self, query: SearchQuery) -> Searched:
        """Search `files` with Python's expressions, which are similar to the kit's."""
        await anyio.lowlevel.checkpoint()
        self._enter()
        if self.searched is not None:
            return self.searched
        root = posixpath.normpath(query.path)
        if root not in self.directories and root not in self.files:
            raise FileNotFound(f"There is no {root}.")
        content = (query.content or "") if query.regex else re.escape(query.content or "")
        try:
            wanted = re.compile(content, re.IGNORECASE if query.ignore_case else 0)
        except re.error as error:
            raise InvalidArgument(f"The pattern cannot be used: {error}.") from None
        matches: list[Match] = []
        for path in sorted(self.files):
            name = path.removeprefix(root).lstrip("/")
            if not path.startswith(root) or not _fits(query, name):
                continue
            data = self.files[path].data
            if query.content is None:
                matches.append(Match(path, Kind.FILE, size=len(data)))
                continue
            for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
                if hit := wanted.search(line):
                    place = hit.start() + 1
                    matches.append(Match(path, Kind.FILE, None, number, place, line))
        cut = len(matches) > query.max_results
        return Searched(
            query.path, tuple(matches[: query.max_results]), "results" if cut else "", len(matches)
        )

    async def pack_tree(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        await anyio.lowlevel.checkpoint()
        self._enter()
        root = posixpath.normpath(path)
        if root not in self.directories and root not in self.files:
            raise FileNotFound(f"There is no {root}.")
        if file := self.files.get(root):
            name = posixpath.basename(root).encode()
            into.feed(encode(TreeEntry(Kind.FILE, name, file.mode, 0, file.data)))
        for name, file in sorted(self.files.items()):
            below = name.removeprefix(root.rstrip("/") + "/")
            if below != name and not (exclude and re.search(glob_expression(exclude), below)):
                into.feed(encode(TreeEntry(Kind.FILE, below.encode(), file.mode, 0, file.data)))
        into.feed(self.packed + b"e 0 0 0\0\0")

    async def unpack_tree(self, path: str, records: bytes) -> Unpacked:
        await anyio.lowlevel.checkpoint()
        self._enter()
        stream = records + b"e 0 0 0\0\0"
        done = Unpacked()
        for entry in decode(lambda at, size: stream[at : at + size], len(stream)):
            assert isinstance(entry, TreeEntry)
            name = posixpath.join(path, entry.name.decode("utf-8", "surrogateescape"))
            if entry.kind is not Kind.FILE:
                self.directories.add(name)
                done += Unpacked(directories=1)
                continue
            try:
                await self.write_file(name, entry.data, entry.mode)
                done += Unpacked(files=1, size=len(entry.data))
            except FileRefused as error:
                done += Unpacked(failed=1, failures=(Skipped(entry.name, error.message),))
        return done

    async def list_files(self, path: str) -> Listing:
        await anyio.lowlevel.checkpoint()
        self._enter()
        if self.listing_error is not None:
            raise self.listing_error
        if self.listing is not None:
            return self.listing
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

    async def resource_use(self) -> ResourceUse | None:
        await anyio.lowlevel.checkpoint()
        return None if self.dead.is_set() else self.used

    @property
    def exposed(self) -> tuple[ExposedPort, ...]:
        return tuple(ExposedPort(*ports) for ports in self.ports.items())

    async def expose(self, port: int, local_port: int = 0) -> ExposedPort:
        await anyio.lowlevel.checkpoint()
        free = local_port or 40_000 + len(self.ports)
        return ExposedPort(port, self.ports.setdefault(port, free))

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        self.stall = notify

    def when_misbehaves(self, notify: Callable[[GuestMisbehaves], None]) -> None:
        self.misbehave = notify

    def when_visited(self, notify: Callable[[], None]) -> None:
        self.visit = notify

    async def unexpose(self, port: int) -> bool:
        await anyio.lowlevel.checkpoint()
        return self.ports.pop(port, None) is not None

    async def answers(self, port: int, seconds: float) -> bool:
        await anyio.lowlevel.checkpoint()
        self.tried_ports.append((port, seconds))
        return port in self.listening

    async def wait_dead(self) -> str:
        await self.dead.wait()
        return self.cause

    async def pause(self) -> None:
        self.ports.clear()
        self.detached.set()
        self.hang_up()
        await self._obey("pause")

    async def unpause(self) -> None:
        await self._obey("unpause")
        self.detached = anyio.Event()

    @asynccontextmanager
    async def freeze(self) -> AsyncGenerator[FakeFrozenMachine]:
        await self._obey("freeze")
        taken = FakeFrozenMachine(copy.deepcopy(self.files), copies(self.kept), self.contexts)
        try:
            yield taken
        finally:
            taken.ended = True

    async def pause_to_disk(self) -> None:
        self.detached.set()
        await self._obey("pause_to_disk")
        self.die("paused to disk")

    async def _obey(self, what: str) -> None:
        """Record an order. Fails if `freeze_error` is set."""
        await anyio.lowlevel.checkpoint()
        if self.freeze_error is not None:
            raise self.freeze_error
        self.obeyed.append(what)

    async def destroy(self) -> None:
        self.destroys += 1
        if self.destroy_error is not None:
            raise self.destroy_error
        if not self.dead.is_set():
            self.die("destroyed")


def _fits(query: SearchQuery, name: str) -> bool:
    if query.exclude and re.search(glob_expression(query.exclude), name):
        return False
    return not query.name or re.search(glob_expression([query.name]), name) is not None


@dataclass(slots=True)
class _Run:
    """One execution of the line language."""

    guest: FakeGuest
    command: Command
    into: Streams | JobStreams
    exit_code: int | None = 0
    signal: str | None = None
    timed_out: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    left: Left = NOTHING_LEFT

    async def step(self, verb: str, rest: str) -> bool:
        """Run one line and return False if the program ended."""
        command = self.command
        match verb:
            case "echo":
                self.into.stdout.feed(rest.encode() + b"\n")
            case "err":
                self.into.stderr.feed(rest.encode() + b"\n")
            case "flood":
                self.into.stdout.feed(b"x" * int(rest))
            case "stdin":
                self.into.stdout.feed(command.stdin)
            case "env":
                self.into.stdout.feed(command.env.get(rest, "").encode() + b"\n")
            case "cwd":
                self.into.stdout.feed((command.cwd or self.guest.directory).encode() + b"\n")
            case "leave":
                self.left = self.guest.leave(rest, self.id)
            case "hang":
                self.guest.started.set()
                await self.guest.release.wait()
            case "die":
                self.guest.die()
                raise GuestLost(f"The machine died: {self.guest.cause}")
            case _:
                return self._step_in_context(verb, rest)
        return True

    def _step_in_context(self, verb: str, rest: str) -> bool:
        kept = self.guest.kept.get(self.id)
        context = self.guest.contexts.get(kept.job.attributes.context) if kept else None
        if context is None or not context.knows(verb):
            return self._end(verb, rest)
        self.exit_code = context.step(verb, rest, self.into)
        return self.exit_code == 0

    def _end(self, verb: str, rest: str) -> bool:
        match verb:
            case "exit":
                self.exit_code = int(rest)
            case "signal":
                self.exit_code, self.signal = None, rest
            case "timeout":
                self.exit_code, self.timed_out = None, True
            case _:
                self.into.stderr.feed(f"no such word: {verb}\n".encode())
                self.exit_code = 1
        return False

    def result(self) -> ExecutionResult:
        return ExecutionResult(
            stdout=self.into.stdout.output(),
            stderr=self.into.stderr.output(),
            exit_code=self.exit_code,
            signal=self.signal,
            timed_out=self.timed_out,
            duration=0.25,
            run_id=self.id,
            left=self.left,
        )
