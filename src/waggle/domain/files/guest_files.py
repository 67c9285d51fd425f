# SPDX-License-Identifier: Apache-2.0
"""The files of a guest, as use cases ask for them. A part of `domain.host.Guest`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from waggle.domain.files import FileSlice, FileVersion, Listing
from waggle.domain.files.search import Searched, SearchQuery
from waggle.domain.files.tree import Unpacked
from waggle.domain.programs import Stream

Names = frozenset[str]
"""Paths of what has changed, below the directory that is watched; none if it may be anything."""


class FilesOfGuest(Protocol):
    """Reads and writes the guest's files as the user that programs run as."""

    async def write_file(
        self,
        path: str,
        data: bytes,
        mode: int | None = None,
        *,
        unless_changed: FileVersion | None = None,
    ) -> None:
        """Write a file as the user that programs run as; an existing one as write(2) would.

        A link is followed; owner, other names and, without `mode`, the permission bits stay. A new
        file gets DEFAULT_MODE; parents are made. Readers see the old content or the new one, except
        in files of other owners, with several names or with attributes. With `unless_changed`,
        writes only while the file is still that version. Raises FileRefused (permission, directory,
        disk full, changed) or GuestLost.
        """
        ...

    async def read_version(self, path: str, *, limit: int) -> tuple[bytes, FileVersion]:
        """Read a whole file of at most `limit` bytes, and the version that shows its changes.

        Raises as `read_file` does.
        """
        ...

    async def read_file(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """Read at most `length` bytes from `offset` of a file that has at most `limit` bytes.

        Raises FileNotFound, FileRefused or TooLarge.
        """
        ...

    async def list_files(self, path: str) -> Listing:
        """List a directory. Raises FileNotFound or FileRefused."""
        ...

    async def search(self, query: SearchQuery) -> Searched:
        """Search names and contents, for SEARCH_SECONDS at most; links are not followed.

        Raises FileNotFound, FileRefused, InvalidArgument (the expression) or GuestLost.
        """
        ...

    async def pack_tree(self, path: str, exclude: Sequence[str], into: Stream) -> None:
        """Write the records of `domain.files.tree` for a directory or file, without excluded globs.

        At most MAX_TREE_BYTES and MAX_TREE_ENTRIES. The guest wrote them. Raises FileNotFound,
        FileRefused, InvalidArgument, TimedOut or GuestLost.
        """
        ...

    async def unpack_tree(self, path: str, records: bytes) -> Unpacked:
        """Make files from records below a directory, which is made. Some of them may fail.

        Each file appears whole or not at all. Raises FileRefused, TimedOut or GuestLost.
        """
        ...

    async def watch(self, path: str, changed: Callable[[Names], None]) -> None:
        """Call `changed` when a file or something below a directory changes, whoever changes it.

        At most five times a second; first, without names, once it watches: from then on nothing is
        missed. Parts of large trees may be left out. Returns when the path is gone, at a pause, or
        after some hours. Raises FileNotFound, FileRefused, Unsupported or GuestLost. Safe to
        cancel.
        """
        ...
