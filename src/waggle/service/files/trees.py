# SPDX-License-Identifier: Apache-2.0
"""Whole trees in and out of an environment, as archives. Called by `waggle.mcp`.

A downloaded archive is kept for its pages, in a file without a name, until newer ones of the same
environment replace it or the environment is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from waggle.domain.errors import ArchiveNotFound, DiskFull, GuestLost, InvalidArgument, TooLarge
from waggle.domain.files import parse_path
from waggle.domain.files.search import check_excludes
from waggle.domain.files.tree import (
    MAX_ARCHIVE_BYTES,
    LeftOut,
    Skipped,
    TreeEntry,
    Unpacked,
    decode,
    encode,
)
from waggle.domain.host import Guest
from waggle.domain.programs import HOME, MAX_STDIN_BYTES, NewRecording, Recording
from waggle.infra.archive.trees import Check, read_archive, write_archive
from waggle.service.environments.service import EnvironmentService
from waggle.service.files import located, nearby
from waggle.service.sharing import Turns, in_thread

MAX_KEPT = 2
"""How many archives of one environment are kept."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar.gz of a directory or file. `id` is the start of its sha256."""

    id: str
    environment_id: str
    path: str
    sha256: str
    size: int
    entries: int
    left_out: LeftOut
    content: Recording

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of it. Raises InvalidArgument beyond the end."""
        if offset > self.size:
            raise InvalidArgument(
                f"offset is {offset}, but the archive has only {self.size} bytes.",
                hint="Use the next_offset of the previous page.",
            )
        return self.content.read(offset, length)


class TreeService:
    """Upload and download. `record` makes a spool for an archive, of MAX_RECORDS_BYTES.

    An owner has one upload and one download in memory at a time; `trim` returns that memory to the
    system.
    """

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        record: NewRecording,
        trim: Callable[[], None] = lambda: None,
    ) -> None:
        self._environments = environments
        self._record = record
        self._trim = trim
        self._uploads, self._downloads = Turns(), Turns()
        self._archives: dict[str, dict[str, Archive]] = {}
        environments.events.when_removed(self._forget)
        environments.disk.count(self._bytes)

    async def upload(
        self, environment_id: str, path: str | None, archive: bytes, *, owner: str
    ) -> tuple[str, Unpacked]:
        """Unpack a tar, compressed or not, or a zip; return the directory and the outcome.

        Nothing is written if any entry is refused. Repeating it is safe. Raises InvalidArgument,
        TooLarge, FileRefused, NotFound, NotRunning, TimedOut or GuestLost.
        """
        target = HOME if path is None else parse_path(path)
        if len(archive) > MAX_ARCHIVE_BYTES:
            raise TooLarge(
                f"The archive has {len(archive)} bytes; the limit is {MAX_ARCHIVE_BYTES}.",
                hint="Send it in parts.",
            )
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            target = await located(guest, target)
            async with self._uploads.turn(owner):
                try:
                    return target, await _send(archive, target, guest)
                finally:
                    self._give_back()

    async def download(
        self, environment_id: str, path: str, *, owner: str, exclude: Sequence[str] = ()
    ) -> Archive:
        """Pack a directory or a file as a tar.gz, which `kept` finds later.

        Raises FileNotFound, FileRefused, InvalidArgument, TooLarge, NotFound, NotRunning, TimedOut
        or GuestLost.
        """
        target = parse_path(path)
        left_out = check_excludes(exclude)
        async with self._environments.using(environment_id, owner=owner) as (environment, guest):
            target = await located(guest, target)
            packed, content = self._record(), self._record()
            try:
                async with nearby(guest, target):
                    await guest.pack_tree(target, left_out, packed)
                async with self._downloads.turn(owner):
                    archive = await self._rewritten(environment.id, target, packed, content)
                self._environments.get(environment.id, owner=owner)  # destroyed meanwhile?
                self._keep(environment.id, archive)
            except BaseException:
                content.close()
                raise
            finally:
                packed.close()
        return archive

    async def _rewritten(
        self, environment_id: str, path: str, packed: Recording, content: Recording
    ) -> Archive:
        try:
            return await in_thread(
                lambda check: _rewrite(environment_id, path, packed, content, check)
            )
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """Call `trim` in a thread: it takes some milliseconds."""
        asyncio.get_running_loop().run_in_executor(None, self._trim)

    def kept(self, environment_id: str, archive_id: str, *, owner: str) -> Archive:
        """Return an archive that `download` made. This counts as use of a running environment.

        Raises NotFound, InvalidArgument, or ArchiveNotFound when it is gone.
        """
        environment = self._environments.touch(environment_id, owner=owner)
        archive = self._archives.get(environment.id, {}).get(archive_id)
        if archive is None:
            raise ArchiveNotFound("There is no such archive any more.")
        return archive

    def _keep(self, environment_id: str, archive: Archive) -> None:
        kept = self._archives.setdefault(environment_id, {})
        if (old := kept.pop(archive.id, None)) is not None:
            old.content.close()
        kept[archive.id] = archive
        while len(kept) > MAX_KEPT:
            kept.pop(next(iter(kept))).content.close()

    def _bytes(self) -> Counter[str]:
        """Return what archives take of the disk, by owner."""
        taken = Counter[str]()
        for environment in self._environments.all():
            archives = self._archives.get(environment.id, {}).values()
            taken[environment.owner] += sum(archive.size for archive in archives)
        return taken

    def _forget(self, environment_id: str) -> None:
        for archive in self._archives.pop(environment_id, {}).values():
            archive.content.close()


async def _send(archive: bytes, target: str, guest: Guest) -> Unpacked:
    entries = await in_thread(lambda check: read_archive(archive, check))
    done = Unpacked()
    for batch in batches(entries):
        done += await guest.unpack_tree(target, batch)
    return done


def batches(entries: Sequence[TreeEntry], limit: int = MAX_STDIN_BYTES) -> Iterator[bytes]:
    """Yield the entries' records, in order, in as few pieces as runs of `limit` bytes allow."""
    batch = bytearray()
    for entry in entries:
        record = encode(entry)
        if batch and len(batch) + len(record) > limit:
            yield bytes(batch)
            batch.clear()
        batch += record
    if batch:
        yield bytes(batch)


def _rewrite(
    environment_id: str, path: str, packed: Recording, content: Recording, check: Check
) -> Archive:
    """Make the archive from the records of a guest. For a worker thread."""
    if packed.disk_full:
        raise _no_room()
    if packed.kept < packed.total:
        raise GuestLost("The guest sent more than it may.", hint="")
    out = _Hashed(content.feed)
    count = 0

    def counted() -> Iterator[TreeEntry | Skipped]:
        nonlocal count
        for entry in decode(packed.read, packed.total):
            count += isinstance(entry, TreeEntry)
            yield entry

    try:
        left_out = write_archive(counted(), out, check)
    except ValueError as error:
        raise GuestLost(
            "The guest's program for files gave an invalid answer.",
            hint="Something in the environment changed its tools; use execute instead.",
        ) from error
    if content.disk_full:
        raise _no_room()
    if content.kept < out.tell():
        raise TooLarge("The archive is too large to keep.", hint="Leave out more.")
    digest = out.sha256.hexdigest()
    return Archive(digest[:16], environment_id, path, digest, out.tell(), count, left_out, content)


def _no_room() -> DiskFull:
    return DiskFull("The server's disk is full: the data directory has no room for the archive.")


class _Hashed(io.RawIOBase):
    """A writable file that counts and hashes its bytes and passes them to `feed`."""

    def __init__(self, feed: Callable[[bytes], None]) -> None:
        super().__init__()
        self._feed = feed
        self._size = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] # gzip writes bytes
        self._feed(bytes(data))
        self._size += len(data)
        self.sha256.update(data)
        return len(data)

    def tell(self) -> int:
        return self._size
