# SPDX-License-Identifier: Apache-2.0
"""Archives of clients: into entries for a guest, and from what a guest packed. For worker threads.

Used by `trees`. A client's archive is refused as a whole when any name in it is hostile; what a
guest packed is cleaned, and what cannot be is left out and told. `waggle cp` reads what a server
sends with the same checks. Nothing here touches a file system of the host.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import (
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    Layout,
    LeftOut,
    Skipped,
    TreeEntry,
    check_target,
    clean_name,
)
from waggle.infra.archive.formats import SUPPORTED, Known, refused, tar_entries, too_much
from waggle.infra.archive.tar_writing import END, content, header
from waggle.infra.archive.zip_entries import MAGIC, zip_entries

Check = Callable[[], None]
"""Called again and again while an archive is worked on; ends that with what it raises."""


def go_on() -> None:
    """The check of who never gives up."""


def read_archive(data: bytes, check: Check = go_on) -> list[TreeEntry]:
    """All entries of a client's archive, checked.

    Raises InvalidArgument for what is no archive and for hostile entries, TooLarge beyond bounds,
    and what `check` raises.
    """
    # The first name of a tar may begin as a zip does: PK0012.txt.
    is_zip = data.startswith(MAGIC) and data[257:262] != b"ustar"
    entries = _all_checked(
        lambda known: zip_entries(data) if is_zip else tar_entries(data, known, check=check), check
    )
    if not entries:
        raise InvalidArgument("The archive is empty.", hint=SUPPORTED)
    return entries


def read_packed(data: bytes) -> list[TreeEntry]:
    """All entries of what `write_archive` wrote, checked once more; there may be none.

    Raises as `read_archive`. A file may be as large as the whole tree.
    """
    return _all_checked(lambda known: tar_entries(data, known, largest=MAX_TREE_BYTES), go_on)


def _all_checked(read: Callable[[Known], Iterable[TreeEntry]], check: Check) -> list[TreeEntry]:
    """The entries in their order.

    Of files and links with one name the last counts, at its place: archives grow at their end.
    """
    layout, size = Layout(), 0
    entries: dict[bytes, TreeEntry] = {}

    def known(name: bytes) -> TreeEntry | None:
        found = entries.get(name)
        return None if found is None or found.kind is Kind.DIRECTORY else found

    for entry in read(known):
        check()
        checked = _checked(entry, layout)
        if checked is None:
            continue
        size += len(checked.data)
        if checked.kind is not Kind.DIRECTORY:
            entries.pop(checked.name, None)
        if size > MAX_TREE_BYTES or len(entries) >= MAX_TREE_ENTRIES:
            raise too_much()
        entries[checked.name] = checked
    return list(entries.values())


def _checked(entry: TreeEntry, layout: Layout) -> TreeEntry | None:
    """The entry under its clean name; None for the root itself. Raises InvalidArgument."""
    try:
        name = clean_name(entry.name)
        if not name:
            if entry.kind is Kind.DIRECTORY:
                return None
            raise ValueError("it has no name")
        if entry.kind is Kind.LINK:
            check_target(entry.data)
        layout.add(name, entry.kind)
    except ValueError as error:
        raise refused(entry.name, str(error)) from None
    return TreeEntry(entry.kind, name, entry.mode & 0o777, entry.modified, entry.data)


def write_archive(
    entries: Iterable[TreeEntry | Skipped], out: io.RawIOBase, check: Check = go_on
) -> LeftOut:
    """Write a tar.gz of what a guest packed, and return what was left out and why.

    Names lead nowhere but into the tree, links where the guest has them lead; owners are 0, modes
    have no special bits. An entry without a name is the end that came too early: TooLarge. Raises
    ValueError for nonsense, and what `check` raises.
    """
    layout, left_out = Layout(), LeftOut()
    with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
        for entry in entries:
            check()
            if isinstance(entry, Skipped):
                if not entry.name:
                    raise _stopped(entry.reason)
                left_out.add(entry)
                continue
            try:
                name = clean_name(entry.name)
                if entry.kind is Kind.LINK:
                    check_target(entry.data)
                if name and layout.add(name, entry.kind):
                    raise ValueError("its name comes twice")
            except ValueError as error:
                left_out.add(Skipped(entry.name, str(error)))
                continue
            if not name:
                continue
            packed.write(header(name, entry))
            for piece in content(entry):
                check()
                packed.write(piece)
        packed.write(END)
    return left_out


def _stopped(reason: str) -> TooLarge:
    what = f"{MAX_TREE_BYTES:,} bytes" if reason == "bytes" else f"{MAX_TREE_ENTRIES:,} entries"
    return TooLarge(
        f"The tree has more than {what}.", hint="Name a directory in it, or leave out more."
    )
