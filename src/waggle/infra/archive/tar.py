# SPDX-License-Identifier: Apache-2.0
"""A reader of untrusted tar streams that yields entries as plain values.

Called by `layers`, `formats` and `transfer.archive`. Supports ustar, star, PAX, GNU long names and
sparse files, base-256 numbers and the old V7 form; all names are bytes. Like other readers, it
accepts an archive whose last entry is not padded to a block or that lacks the end blocks. It never
touches a file system, so a hostile name can reach nothing. `Limits` bounds its memory. Malformed
input raises `ImageCorrupt`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import Limits, clean_path, tar_fields
from waggle.infra.archive.tar_fields import (
    Records,
    decimal_ns,
    device,
    name_of,
    number,
    owner,
    parse_records,
    record_number,
    text,
    verify_checksum,
    xattrs_of,
)

BLOCK = 512
_CHUNK = 1 << 20
_MAX_PARTS = 1 << 15
"""Path components that are remembered.

A hostile archive may have no two alike, and a pull reads it in the server's own process.
"""
_REGULAR = frozenset((b"0", b"\0", b"7", b"S"))
_TYPES = {
    b"1": 0,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
    b"D": stat.S_IFDIR,  # holds a list of names for GNU tar's own use
}
_SKIPPED = frozenset((b"V", b"A", b"N"))
"""Types that are skipped: volume label, Solaris access list, old form of long names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of an archive. `mode` has the type bits of `stat`, or none for a hard link."""

    path: tuple[bytes, ...]
    """Components below the root of the tree; empty for the root itself."""
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    link: bytes = b""
    """Target of a symlink, unchanged, or of a hard link: the other file's name in the archive."""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    offset: int = 0
    """Where the content starts in the layer's data file; set by `layers`."""
    is_absolute: bool = False
    """Whether the name in the archive began with a slash, which `path` omits."""

    @property
    def is_hard_link(self) -> bool:
        """Whether this is another name for an existing file."""
        return stat.S_IFMT(self.mode) == 0


class TarReader:
    """An iterator over entries; `content` yields the bytes of the latest entry."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        """Read from a buffered `stream`; the caller closes it."""
        self._stream = stream
        self._limits = limits
        self._stored = 0
        self._padding = 0
        self._extensions = 0
        self._segments: list[tuple[int, int]] = []
        self._parts: dict[bytes, bytes] = {}
        """Path components, stored once: an archive repeats the names of its directories."""

    def __iter__(self) -> Iterator[Entry]:
        """Yield entries until the archive ends; unread content is skipped."""
        while (entry := self._next()) is not None:
            yield entry

    def content(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the file, bytes), once only; gaps are zeros."""
        segments, self._segments = self._segments, []
        for start, length in segments:
            offset, left = start, length
            while left:
                data = self._take(min(left, _CHUNK))
                yield offset, data
                offset += len(data)
                left -= len(data)

    def _take(self, count: int) -> bytes:
        if count > self._stored:
            raise ImageCorrupt("A layer holds a sparse file whose map exceeds its data.")
        data = self._exactly(count)
        self._stored -= count
        return data

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise ImageCorrupt("A layer's archive ends in the middle of an entry.")
        return data

    def _skip_content(self) -> None:
        left, padding = self._stored, self._padding
        self._stored = self._padding = 0
        while left:
            left -= len(self._exactly(min(left, _CHUNK)))
        self._stream.read(padding)  # the last entry may lack it

    def _next(self) -> Entry | None:
        records: Records = {}
        long_name = long_link = b""
        while True:
            self._skip_content()
            header = self._stream.read(BLOCK)
            if not header.strip(b"\0"):
                return None
            if len(header) != BLOCK:
                raise ImageCorrupt("A layer's archive ends in the middle of a header.")
            verify_checksum(header)
            kind, size = header[156:157], number(header[124:136])
            match kind:
                case b"x" | b"X":
                    records = parse_records(self._extension(size))
                case b"g":
                    parse_records(self._extension(size))
                case b"L":
                    long_name = self._extension(size).rstrip(b"\0")
                case b"K":
                    long_link = self._extension(size).rstrip(b"\0")
                case _ if kind in _SKIPPED:
                    self._store(size)
                case _:
                    return self._entry(header, records, long_name, long_link)

    def _extension(self, size: int) -> bytes:
        """Read the body of a PAX or GNU extension into memory."""
        if not 0 <= size <= self._limits.extension_bytes:
            raise ImageCorrupt(f"A layer has an extension header of {size} bytes.")
        self._extensions += size
        if self._extensions > self._limits.extensions_bytes:
            most = self._limits.extensions_bytes
            raise ImageCorrupt(f"A layer has more than {most} bytes of extension headers.")
        data = self._exactly(size)
        self._stream.read(-size % BLOCK)
        return data

    def _store(self, size: int) -> None:
        """Note that `size` bytes of content follow, padded to a full block."""
        if size < 0:
            raise ImageCorrupt("A layer has an entry of negative size.")
        self._stored, self._padding = size, -size % BLOCK

    def _entry(self, header: bytes, records: Records, name: bytes, link: bytes) -> Entry:
        kind = header[156:157]
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or name or name_of(header)
        link = records.get(b"linkpath") or link or text(header[157:257])
        stored = record_number(records, b"size", header[124:136])
        size = self._arrange(header, records, stored)
        if kind in _REGULAR and not name.endswith(b"/"):
            mode = stat.S_IFREG
        elif kind in _REGULAR:
            mode, size = stat.S_IFDIR, 0
        elif kind in _TYPES:
            mode, size = _TYPES[kind], 0
        else:
            raise ImageCorrupt(f"A layer has an entry of unknown type {kind!r}.")
        if size > self._limits.file_bytes:
            raise ImageCorrupt(f"A layer has a file of {size} bytes.")
        if mode == stat.S_IFLNK and (not link or b"\0" in link or len(link) >= 4096):
            raise ImageCorrupt("A layer has a symlink with an impossible target.")
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        mtime = records.get(b"mtime")
        return Entry(
            path=self._path(name),
            mode=mode | (number(header[100:108]) & 0o7777),
            uid=owner(record_number(records, b"uid", header[108:116])),
            gid=owner(record_number(records, b"gid", header[116:124])),
            mtime_ns=decimal_ns(mtime) if mtime else number(header[136:148]) * 1_000_000_000,
            size=size,
            link=link if mode in {0, stat.S_IFLNK} else b"",
            device=device(header) if is_device else (0, 0),
            xattrs=xattrs_of(records),
            is_absolute=name.startswith(b"/"),
        )

    def _path(self, name: bytes) -> tuple[bytes, ...]:
        if len(self._parts) > _MAX_PARTS:
            self._parts.clear()
        return tuple(self._parts.setdefault(p, p) for p in clean_path(name, self._limits))

    def _arrange(self, header: bytes, records: Records, stored: int) -> int:
        """Note where the content is in the stream; return the size of the file."""
        kind = header[156:157]
        if kind not in _REGULAR:
            self._segments = []
            self._store(stored if kind == b"D" else 0)
            return 0
        self._store(stored)
        if kind == b"S":
            found = tar_fields.old_gnu(header, self._exactly)
        elif b"GNU.sparse.major" in records:
            found = tar_fields.pax_body(records, self._take)
        else:
            found = tar_fields.pax_records(records)
        if found is None:
            self._segments = [(0, stored)]
            return stored
        size, self._segments = found
        tar_fields.verify(size, self._segments, self._stored)
        return size
