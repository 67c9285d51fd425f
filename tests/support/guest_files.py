# SPDX-License-Identifier: Apache-2.0
"""The files of a fake guest, in a dict, and its watches. The base of `tests.support.guest`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

from waggle.domain.environment import Environment
from waggle.domain.errors import FileNotFound, FileRefused, GuestLost, InvalidArgument, TooLarge
from waggle.domain.files import (
    DEFAULT_MODE,
    MAX_LIST_ENTRIES,
    FileEntry,
    FileSlice,
    FileVersion,
    Listing,
)
from waggle.domain.files.guest_files import Names
from waggle.domain.files.search import Kind, Match, Searched, SearchQuery, glob_expression
from waggle.domain.files.tree import Skipped, TreeEntry, Unpacked, decode, encode
from waggle.domain.machine import VmmProcess
from waggle.domain.programs import HOME, GuestUser, Stream

MODIFIED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


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
class FakeFiles:
    """A guest as far as it has files. Set `file_error` to make their calls fail.

    `file_hold` keeps reads of files waiting, after they set `started`. `listing` and `searched`
    override the answers of `list_files` and `search`; `packed` are records that `pack_tree` adds.
    `watching` holds the open watches by path, which `hang_up` ends as a pause does; `watched` lists
    all paths ever.
    """

    environment: Environment
    ssh_port: int
    machine: VmmProcess
    booted_from: dict[str, str]
    files: dict[str, FakeFile] = field(default_factory=dict[str, FakeFile])
    directories: set[str] = field(default_factory=lambda: {"/", "/home", HOME, "/tmp"})
    directory: str = HOME
    user_home: str = HOME
    file_error: Exception | None = None
    file_hold: anyio.Event | None = None
    started: anyio.Event = field(default_factory=anyio.Event)
    listing: Listing | None = None
    listing_error: Exception | None = None
    searched: Searched | None = None
    packed: bytes = b""
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

    def _enter(self) -> None:
        if self.dead.is_set():
            raise GuestLost(f"The machine died: {self.cause}")
        if self.file_error is not None:
            raise self.file_error

    async def home(self, user: GuestUser = GuestUser.SANDBOX) -> str:
        await anyio.lowlevel.checkpoint()
        return "/root" if user is GuestUser.ROOT else self.user_home

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


def _fits(query: SearchQuery, name: str) -> bool:
    if query.exclude and re.search(glob_expression(query.exclude), name):
        return False
    return not query.name or re.search(glob_expression([query.name]), name) is not None
