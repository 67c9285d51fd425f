# SPDX-License-Identifier: Apache-2.0
"""The part of a guest on this host that is about its files. `LocalGuest` has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from waggle.domain.files import FileSlice, FileVersion, Listing
from waggle.domain.files.guest_files import Names
from waggle.domain.files.search import Searched, SearchQuery
from waggle.domain.files.tree import Unpacked
from waggle.domain.programs import Output, Stream
from waggle.infra.ssh.run.again import Interrupted, once_more
from waggle.infra.ssh.run.trees import Trees
from waggle.infra.ssh.run.watching import Watches
from waggle.infra.ssh.sftp import Files
from waggle.infra.ssh.sftp.reading import ReadAhead


class _First:
    """A stream that passes everything on, and knows whether anything came."""

    def __init__(self, into: Stream) -> None:
        self._into = into
        self.has_begun = False

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.has_begun = True
        self._into.feed(data)

    def output(self) -> Output:
        """Return the stream's output."""
        return self._into.output()


class FilesOfGuest:
    """Implements `domain.files.guest_files.FilesOfGuest` over the guest's SSH connection."""

    _files: Files
    _trees: Trees
    _watches: Watches
    _pages: ReadAhead
    _naming_the_cause: Callable[[], AbstractAsyncContextManager[None]]

    async def write_file(
        self,
        path: str,
        data: bytes,
        mode: int | None = None,
        *,
        unless_changed: FileVersion | None = None,
    ) -> None:
        """Write a file; see `FilesOfGuest`."""
        self._pages.forget()
        async with self._naming_the_cause():
            await self._files.write(path, data, mode, unless_changed=unless_changed)

    async def read_version(self, path: str, *, limit: int) -> tuple[bytes, FileVersion]:
        """Read a whole file to edit it; see `FilesOfGuest`."""
        async with self._naming_the_cause():
            return await self._files.read_version(path, limit)

    async def read_file(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """Read a part of a file; see `FilesOfGuest`."""
        async with self._naming_the_cause():
            return await self._pages.read(path, offset=offset, length=length, limit=limit)

    async def list_files(self, path: str) -> Listing:
        """List a directory; see `FilesOfGuest`."""
        async with self._naming_the_cause():
            return await self._files.list(path)

    async def search(self, query: SearchQuery) -> Searched:
        """Search files; see `FilesOfGuest`."""
        async with self._naming_the_cause():
            return await once_more(lambda: self._trees.search(query))

    async def pack_tree(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        """Pack a tree; see `FilesOfGuest`."""
        async with self._naming_the_cause():
            first = _First(into)
            try:
                await self._trees.pack(path, exclude, first)
            except Interrupted:
                if first.has_begun:
                    raise
                await self._trees.pack(path, exclude, into)

    async def unpack_tree(self, path: str, records: bytes) -> Unpacked:
        """Unpack a tree; see `FilesOfGuest`."""
        self._pages.forget()
        async with self._naming_the_cause():
            return await self._trees.unpack(path, records)

    async def watch(self, path: str, changed: Callable[[Names], None]) -> None:
        """Watch files; see `FilesOfGuest`."""
        async with self._naming_the_cause():
            await self._watches.watch(path, changed)
