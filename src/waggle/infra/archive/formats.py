# SPDX-License-Identifier: Apache-2.0
"""Readers of a client's tar or zip: its entries, within limits, with names not yet checked.

Called by `trees`, which checks the names. A zip says little about itself, so names, modes and times
are interpreted as Info-ZIP's unzip does. Nothing here touches the host's file system.
"""

from __future__ import annotations

import calendar
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from waggle.domain.errors import ImageCorrupt, InvalidArgument, TooLarge
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import (
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    MAX_TREE_FILE,
    MAX_TREE_NAMES,
    TreeEntry,
    shown_name,
)
from waggle.infra.archive import Limits
from waggle.infra.archive.decode import DAMAGE, CountedFile, decoder
from waggle.infra.archive.tar import Entry, TarReader

_LIMITS = Limits(
    entries=MAX_TREE_ENTRIES,
    total_bytes=MAX_TREE_BYTES,
    file_bytes=MAX_TREE_FILE,
    extension_bytes=64 << 10,
    extensions_bytes=MAX_TREE_ENTRIES * 800,  # GNU tar writes about 100 per entry
    window=64 << 20,  # as xz -9 uses
)
_HEADERS = MAX_TREE_ENTRIES * 2_048
"""Bytes that a tar may have besides the content of its files."""
SUPPORTED = "Nothing was written. Send a tar, tar.gz, tar.bz2, tar.xz, tar.zst or zip."
Known = Callable[[bytes], TreeEntry | None]
"""Finds the earlier file or link that a hard link names."""


def too_much() -> TooLarge:
    """Return the error for an archive over the limits of a tree."""
    return TooLarge(
        f"The archive unpacks to more than {MAX_TREE_BYTES:,} bytes or {MAX_TREE_ENTRIES:,} "
        "entries.",
        hint="Nothing was written. Send it in parts.",
    )


class _Bounded(io.RawIOBase):
    """A decoder's output as a file, limited to what a tree may have."""

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
    """Yield the entries of a tar, compressed or not, with files of at most `largest` bytes.

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
    """Return the error for an archive with an unacceptable entry."""
    return InvalidArgument(
        f"Entry {shown_name(name)!r} of the archive is refused: {why}.",
        hint="Nothing was written.",
    )


MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00")
"""How zips begin: with an entry, empty, or with the mark of one that was or might be split."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UTF_8 = 0x800
_ENCRYPTED = 0x1
_DOS_DIRECTORY = 0x10
_UNIX, _DARWIN = 3, 19
_UNICODE_PATH, _TIMES = 0x7075, 0x5455
_HAS_MTIME = 1
_CENTRAL, _CENTRAL_SIZE = b"PK\x01\x02", 46
_MAX_EXTRA = 4_096
"""Bytes of extra fields of one entry; zipfile's time for them is quadratic."""


def zip_entries(data: bytes) -> Iterator[TreeEntry]:
    """Yield the entries of a zip. Raises InvalidArgument or TooLarge, also between entries."""
    try:
        file = _Counted(data)
        with zipfile.ZipFile(file) as archive:
            file.is_opening = False
            infos = archive.infolist()
            if len(infos) > MAX_TREE_ENTRIES or sum(i.file_size for i in infos) > MAX_TREE_BYTES:
                raise too_much()
            names = [_name(info) for info in infos]
            has_slashes = any(b"/" in name for name in names)
            for info, name in zip(infos, names, strict=True):
                is_dos = info.create_system not in (_UNIX, _DARWIN)
                if b"/" not in name and (is_dos or not has_slashes):
                    name = name.replace(b"\\", b"/")  # noqa: PLW2901 (the intended name)
                _forgive_local_name(info, data)
                yield _entry(archive, info, name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise InvalidArgument(
            "The zip archive is damaged, or of a kind that is not supported.", hint=SUPPORTED
        ) from error
    except DAMAGE as error:
        raise InvalidArgument("The zip archive is damaged.", hint=SUPPORTED) from error


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: bytes) -> TreeEntry:
    mode = info.external_attr >> 16
    modified = _modified(info)
    is_dos_directory = info.external_attr & _DOS_DIRECTORY and info.file_size == 0
    if name.endswith(b"/") or stat.S_ISDIR(mode) or is_dos_directory:
        return TreeEntry(Kind.DIRECTORY, name, stat.S_IMODE(mode) or 0o755, modified)
    if info.flag_bits & _ENCRYPTED:
        raise refused(name, "it is encrypted")
    if info.compress_type not in _METHODS:
        raise refused(name, "its compression is not deflate")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
        raise refused(name, "it is no file, directory or link")
    if info.file_size > MAX_TREE_FILE:
        raise refused(name, f"it has more than {MAX_TREE_FILE:,} bytes")
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    kind = Kind.LINK if stat.S_ISLNK(mode) else Kind.FILE
    return TreeEntry(kind, name, stat.S_IMODE(mode) or 0o644, modified, content)


def _forgive_local_name(info: zipfile.ZipInfo, data: bytes) -> None:
    """Let the name before the data differ from the one in the directory, which counts.

    Some tools write backslashes or other letters there. zipfile compares the two after decoding.
    """
    at = info.header_offset
    size = int.from_bytes(data[at + 26 : at + 28], "little")
    raw = data[at + 30 : at + 30 + size]
    info.orig_filename = raw.decode("utf-8" if info.flag_bits & _UTF_8 else "cp437")


class _Counted(io.BytesIO):
    """A zip whose directory is counted before zipfile makes an object for every entry.

    zipfile reads the whole directory at once when it opens an archive.
    """

    is_opening = True

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.is_opening:
            _check_directory(data)
        return data


def _check_directory(data: bytes) -> None:
    """Raise TooLarge for a directory with too many entries or too many bytes of names."""
    at = names = count = 0
    while data.startswith(_CENTRAL, at) and len(data) - at >= _CENTRAL_SIZE:
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        at += _CENTRAL_SIZE + name + extra + comment
        names += name
        count += 1
        if count > MAX_TREE_ENTRIES or names > MAX_TREE_NAMES or extra > _MAX_EXTRA:
            raise too_much()


def _name(info: zipfile.ZipInfo) -> bytes:
    """Return the name, in UTF-8 where the zip states its encoding.

    Otherwise, Unix tools wrote bytes, which stay, and other tools wrote mostly UTF-8, else the DOS
    code page.
    """
    said = info.orig_filename.partition("\0")[0]
    if info.flag_bits & _UTF_8:
        return said.encode("utf-8", "surrogateescape")
    raw = said.encode("cp437")
    given = _extra(info.extra, _UNICODE_PATH)
    if len(given) > 5 and given[0] == 1 and given[1:5] == struct.pack("<L", zlib.crc32(raw)):
        return given[5:]
    if info.create_system in (_UNIX, _DARWIN) or is_utf_8(raw):
        return raw
    return said.encode()


def is_utf_8(raw: bytes) -> bool:
    """Whether the bytes are valid UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _extra(extra: bytes, wanted: int) -> bytes:
    """Return the data of an extra field; empty when it is missing or cut off."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == wanted:
            return extra[4 : 4 + size]
        extra = extra[4 + size :]
    return b""


def _modified(info: zipfile.ZipInfo) -> int:
    """Return seconds since the epoch; without a Unix time the DOS time, read as UTC.

    DOS times have no zone. An invalid date counts as 1970.
    """
    times = _extra(info.extra, _TIMES)
    if len(times) >= 5 and times[0] & _HAS_MTIME:
        return max(0, int.from_bytes(times[1:5], "little", signed=True))
    try:
        return max(0, calendar.timegm((*info.date_time, 0, 0, 0)))
    except ValueError:
        return 0
