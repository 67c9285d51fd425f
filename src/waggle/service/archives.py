# SPDX-License-Identifier: Apache-2.0
"""Archives of clients: into entries for a guest, and from what a guest packed. For worker threads.

Used by `trees`. A client's archive is refused as a whole when any name in it is hostile; what a
guest packed is cleaned, and what cannot be is left out and told. `waggle cp` reads what a server
sends with the same checks. Nothing here touches a file system of the host.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.search import Kind
from waggle.domain.tree import (
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    Layout,
    Skipped,
    TreeEntry,
    check_link,
    clean_name,
)
from waggle.service.archive_formats import (
    SUPPORTED,
    Known,
    refused,
    tar_entries,
    too_much,
    zip_entries,
)


def read_archive(data: bytes) -> list[TreeEntry]:
    """All entries of a client's archive, checked.

    Raises InvalidArgument for what is no archive and for hostile entries, TooLarge beyond bounds.
    """
    is_zip = data[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    entries = _all_checked(lambda known: zip_entries(data) if is_zip else tar_entries(data, known))
    if not entries:
        raise InvalidArgument("The archive is empty.", hint=SUPPORTED)
    return entries


def read_packed(data: bytes) -> list[TreeEntry]:
    """All entries of what `write_archive` wrote, checked once more; there may be none.

    Raises as `read_archive`. A file may be as large as the whole tree.
    """
    return _all_checked(lambda known: tar_entries(data, known, largest=MAX_TREE_BYTES))


def _all_checked(read: Callable[[Known], Iterable[TreeEntry]]) -> list[TreeEntry]:
    layout, entries, size = Layout(), list[TreeEntry](), 0
    files: dict[bytes, TreeEntry] = {}
    for entry in read(files.get):
        checked = _checked(entry, layout)
        if checked is None:
            continue
        size += len(checked.data)
        if size > MAX_TREE_BYTES or len(entries) >= MAX_TREE_ENTRIES:
            raise too_much()
        if checked.kind is Kind.FILE:
            files[checked.name] = checked
        entries.append(checked)
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
        raise refused(entry.name, str(error)) from None
    return TreeEntry(entry.kind, name, entry.mode & 0o777, entry.modified, entry.data)


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
