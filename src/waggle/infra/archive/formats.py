# SPDX-License-Identifier: Apache-2.0
"""The entries of a client's tar, as they are in it: bounded, not yet checked.

Used by `archives`, which checks names. Nothing here touches a file system of the host.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace

from waggle.domain.errors import ImageCorrupt, InvalidArgument, TooLarge
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import (
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    MAX_TREE_FILE,
    TreeEntry,
    shown_name,
)
from waggle.infra.archive.decode import CountedFile, decoder
from waggle.infra.archive.decoders import DAMAGE
from waggle.infra.archive.limits import Limits
from waggle.infra.archive.tar import Entry, TarReader

_LIMITS = Limits(
    entries=MAX_TREE_ENTRIES,
    total_bytes=MAX_TREE_BYTES,
    file_bytes=MAX_TREE_FILE,
    extension_bytes=64 << 10,
    extensions_bytes=MAX_TREE_ENTRIES * 800,  # GNU tar's have some 100 for each entry
    window=64 << 20,  # that of xz -9
)
_HEADERS = MAX_TREE_ENTRIES * 2_048
"""Bytes that a tar may have beside the files' own."""
SUPPORTED = "Nothing was written. Send a tar, tar.gz, tar.bz2, tar.xz, tar.zst or zip."
Known = Callable[[bytes], TreeEntry | None]
"""Finds the earlier file, or link, of a hard link."""


def too_much() -> TooLarge:
    """The refusal of an archive over the bounds of a tree."""
    return TooLarge(
        f"The archive unpacks to more than {MAX_TREE_BYTES:,} bytes or {MAX_TREE_ENTRIES:,} "
        "entries.",
        hint="Nothing was written. Send it in parts.",
    )


class _Bounded(io.RawIOBase):
    """What a decoder gives, as a file, and no more of it than a tree may have."""

    def __init__(self, data: bytes, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check
        self._source = decoder(CountedFile(io.BytesIO(data), lambda _count: None), _LIMITS.window)
        self._left = MAX_TREE_BYTES + _HEADERS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] # the stub's Buffer is a memoryview when BufferedReader calls
        self._check()
        data = self._source.read(min(len(buffer), 1 << 20))
        self._left -= len(data)
        if self._left < 0:
            raise too_much()
        buffer[: len(data)] = data
        return len(data)


def tar_entries(
    data: bytes,
    known: Known,
    *,
    largest: int = MAX_TREE_FILE,
    check: Callable[[], None] = lambda: None,
) -> Iterator[TreeEntry]:
    """The entries of a tar, packed or not, with files of at most `largest` bytes.

    Raises InvalidArgument or TooLarge, also between entries, and what `check` raises.
    """
    limits = replace(_LIMITS, file_bytes=largest)
    try:
        reader = TarReader(io.BufferedReader(_Bounded(data, check), 1 << 20), limits)
        for entry in reader:
            yield _tar_entry(entry, reader, known)
    except ImageCorrupt as error:
        words = error.message.replace("A layer's", "The").replace("A layer", "The archive")
        raise InvalidArgument(words, hint=SUPPORTED) from error
    except DAMAGE as error:
        window = f"packed with a window of over {_LIMITS.window >> 20} MiB"
        raise InvalidArgument(f"The archive is damaged, or {window}.", hint=SUPPORTED) from error


def _tar_entry(entry: Entry, reader: TarReader, known: Known) -> TreeEntry:
    name = (b"/" if entry.is_absolute else b"") + b"/".join(entry.path)
    mode, modified = stat.S_IMODE(entry.mode), max(0, entry.mtime_ns // 1_000_000_000)
    if entry.is_hard_link:
        other = known(b"/".join(part for part in entry.link.split(b"/") if part not in (b"", b".")))
        if other is None:
            raise refused(name, "it is a hard link to no earlier file of the archive")
        return TreeEntry(other.kind, name, other.mode, other.modified, other.data)
    if stat.S_ISDIR(entry.mode):
        return TreeEntry(Kind.DIRECTORY, name, mode, modified)
    if stat.S_ISLNK(entry.mode):
        return TreeEntry(Kind.LINK, name, mode, modified, entry.link)
    if not stat.S_ISREG(entry.mode):
        raise refused(name, "it is no file, directory or link")
    content = bytearray(entry.size)
    for offset, piece in reader.content():
        content[offset : offset + len(piece)] = piece
    return TreeEntry(Kind.FILE, name, mode, modified, bytes(content))


def refused(name: bytes, why: str) -> InvalidArgument:
    """The refusal of an archive for one of its entries."""
    return InvalidArgument(
        f"Entry {shown_name(name)!r} of the archive is refused: {why}.",
        hint="Nothing was written.",
    )
