# SPDX-License-Identifier: Apache-2.0
"""Archives of clients: into entries for a guest, and from what a guest packed. For worker threads.

Used by `trees`. A client's archive is refused as a whole when any name in it is hostile; what a
guest packed is cleaned, and what cannot be is left out and told. Nothing here touches a file
system of the host.
"""

from __future__ import annotations

import calendar
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator

from waggle.domain.errors import ImageCorrupt, InvalidArgument, TooLarge
from waggle.domain.search import Kind
from waggle.domain.tree import (
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    MAX_TREE_FILE,
    Layout,
    Skipped,
    TreeEntry,
    check_link,
    clean_name,
    shown_name,
)
from waggle.infra.oci.decode import DAMAGE, CountedFile, decoder
from waggle.infra.oci.limits import Limits
from waggle.infra.oci.tar import Entry, TarReader

_LIMITS = Limits(
    entries=MAX_TREE_ENTRIES,
    total_bytes=MAX_TREE_BYTES,
    file_bytes=MAX_TREE_FILE,
    extension_bytes=64 << 10,
)
_HEADERS = MAX_TREE_ENTRIES * 2_048
"""Bytes that a tar may have beside the files' own."""
_SUPPORTED = "Nothing was written. Send a tar, tar.gz, tar.zst or zip."
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def read_archive(data: bytes) -> list[TreeEntry]:
    """All entries of a client's archive, checked.

    Raises InvalidArgument for what is no archive and for hostile entries, TooLarge beyond bounds.
    """
    is_zip = data[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    layout, entries, size = Layout(), list[TreeEntry](), 0
    files: dict[bytes, TreeEntry] = {}
    for entry in _zip(data) if is_zip else _tar(data, files.get):
        checked = _checked(entry, layout)
        if checked is None:
            continue
        size += len(checked.data)
        if size > MAX_TREE_BYTES or len(entries) >= MAX_TREE_ENTRIES:
            raise _too_much()
        if checked.kind is Kind.FILE:
            files[checked.name] = checked
        entries.append(checked)
    if not entries:
        raise InvalidArgument("The archive is empty.", hint=_SUPPORTED)
    return entries


def _checked(entry: TreeEntry, layout: Layout) -> TreeEntry | None:
    """The entry under its clean name; None for the root itself. Raises InvalidArgument."""
    try:
        name = clean_name(entry.name)
        if not name:
            if entry.kind is Kind.DIRECTORY:
                return None
            raise ValueError("it has no name")
        if entry.kind is Kind.LINK:
            check_link(name, entry.data)
        layout.add(name, entry.kind)
    except ValueError as error:
        raise InvalidArgument(
            f"Entry {shown_name(entry.name)!r} of the archive is refused: {error}.",
            hint="Nothing was written.",
        ) from None
    return TreeEntry(entry.kind, name, entry.mode & 0o777, entry.modified, entry.data)


def _too_much() -> TooLarge:
    return TooLarge(
        f"The archive unpacks to more than {MAX_TREE_BYTES:,} bytes or {MAX_TREE_ENTRIES:,} "
        "entries.",
        hint="Nothing was written. Send it in parts.",
    )


class _Bounded(io.RawIOBase):
    """What a decoder gives, as a file, and no more of it than a tree may have."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._source = decoder(CountedFile(io.BytesIO(data), lambda _count: None))
        self._left = MAX_TREE_BYTES + _HEADERS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] # the stub's Buffer is a memoryview when BufferedReader calls
        data = self._source.read(min(len(buffer), 1 << 20))
        self._left -= len(data)
        if self._left < 0:
            raise _too_much()
        buffer[: len(data)] = data
        return len(data)


def _tar(data: bytes, known: Callable[[bytes], TreeEntry | None]) -> Iterator[TreeEntry]:
    try:
        reader = TarReader(io.BufferedReader(_Bounded(data), 1 << 20), _LIMITS)
        for entry in reader:
            yield _tar_entry(entry, reader, known)
    except ImageCorrupt as error:
        words = error.message.replace("A layer's", "The").replace("A layer", "The archive")
        raise InvalidArgument(words, hint=_SUPPORTED) from error
    except DAMAGE as error:
        raise InvalidArgument("The archive is damaged.", hint=_SUPPORTED) from error


def _tar_entry(
    entry: Entry, reader: TarReader, known: Callable[[bytes], TreeEntry | None]
) -> TreeEntry:
    name = (b"/" if entry.is_absolute else b"") + b"/".join(entry.path)
    mode, modified = stat.S_IMODE(entry.mode), max(0, entry.mtime_ns // 1_000_000_000)
    if entry.is_hard_link:
        other = known(b"/".join(part for part in entry.link.split(b"/") if part not in (b"", b".")))
        if other is None:
            raise _refused(name, "it is a hard link to no earlier file of the archive")
        return TreeEntry(Kind.FILE, name, other.mode, other.modified, other.data)
    if stat.S_ISDIR(entry.mode):
        return TreeEntry(Kind.DIRECTORY, name, mode, modified)
    if stat.S_ISLNK(entry.mode):
        return TreeEntry(Kind.LINK, name, mode, modified, entry.link)
    if not stat.S_ISREG(entry.mode):
        raise _refused(name, "it is no file, directory or link")
    content = bytearray(entry.size)
    for offset, piece in reader.content():
        content[offset : offset + len(piece)] = piece
    return TreeEntry(Kind.FILE, name, mode, modified, bytes(content))


def _refused(name: bytes, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"Entry {shown_name(name)!r} of the archive is refused: {why}.",
        hint="Nothing was written.",
    )


def _zip(data: bytes) -> Iterator[TreeEntry]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_TREE_ENTRIES or sum(i.file_size for i in infos) > MAX_TREE_BYTES:
                raise _too_much()
            for info in infos:
                yield _zip_entry(archive, info)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise InvalidArgument(
            "The zip archive is damaged, encrypted, or of a kind that is not supported.",
            hint=_SUPPORTED,
        ) from error
    except DAMAGE as error:
        raise InvalidArgument("The zip archive is damaged.", hint=_SUPPORTED) from error


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> TreeEntry:
    name = info.filename.encode("utf-8", "surrogateescape")
    mode = info.external_attr >> 16
    modified = _dos_time(info.date_time)
    if info.is_dir():
        return TreeEntry(Kind.DIRECTORY, name, stat.S_IMODE(mode) or 0o755, modified)
    if info.compress_type not in (_STORED, _DEFLATED):
        raise _refused(name, "its compression is not deflate")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
        raise _refused(name, "it is no file, directory or link")
    if info.file_size > MAX_TREE_FILE:
        raise _refused(name, f"it has more than {MAX_TREE_FILE:,} bytes")
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    kind = Kind.LINK if stat.S_ISLNK(mode) else Kind.FILE
    return TreeEntry(kind, name, stat.S_IMODE(mode) or 0o644, modified, content)


def _dos_time(moment: tuple[int, int, int, int, int, int]) -> int:
    """A zip has no time zone: its times are taken for UTC. A date that is none counts as 1970."""
    try:
        return max(0, calendar.timegm((*moment, 0, 0, 0)))
    except ValueError:
        return 0


def write_archive(entries: Iterable[TreeEntry | Skipped], out: io.RawIOBase) -> list[Skipped]:
    """Write a tar.gz of what a guest packed, and return what was left out and why.

    Names and links lead nowhere but into the tree, owners are 0, modes have no special bits. An
    entry without a name is the end that came too early: TooLarge. Raises ValueError for nonsense.
    """
    layout, left_out = Layout(), list[Skipped]()
    with (
        gzip.GzipFile("", "wb", 6, out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in entries:
            if isinstance(entry, Skipped):
                if not entry.name:
                    raise _stopped(entry.reason)
                left_out.append(entry)
                continue
            try:
                name = clean_name(entry.name)
                if entry.kind is Kind.LINK:
                    check_link(name, entry.data)
                if name:
                    layout.add(name, entry.kind)
            except ValueError as error:
                left_out.append(Skipped(entry.name, str(error)))
                continue
            if name:
                _add(tar, name, entry)
    return left_out


def _add(tar: tarfile.TarFile, name: bytes, entry: TreeEntry) -> None:
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.mode, info.mtime = entry.mode & 0o777, entry.modified
    if entry.kind is Kind.DIRECTORY:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif entry.kind is Kind.LINK:
        info.type, info.linkname = tarfile.SYMTYPE, entry.data.decode("utf-8", "surrogateescape")
        tar.addfile(info)
    else:
        info.size = len(entry.data)
        tar.addfile(info, io.BytesIO(entry.data))


def _stopped(reason: str) -> TooLarge:
    what = f"{MAX_TREE_BYTES:,} bytes" if reason == "bytes" else f"{MAX_TREE_ENTRIES:,} entries"
    return TooLarge(
        f"The tree has more than {what}.", hint="Name a directory in it, or leave out more."
    )
