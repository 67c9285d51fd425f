# SPDX-License-Identifier: Apache-2.0
"""Archives exchanged with clients: read into entries for a guest, written from a guest's entries.

Called by `service.files.trees` in worker threads, and by `waggle cp`, which applies the same checks
to what a server sends. A client's archive is rejected as a whole if any name in it is hostile;
entries from a guest are cleaned, and those that cannot be are left out and reported. Writes POSIX
ustar headers, with a PAX header in front where a name or link target does not fit. Nothing here
touches the host's file system.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator

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
from waggle.infra.archive.formats import (
    MAGIC,
    SUPPORTED,
    Known,
    is_utf_8,
    refused,
    tar_entries,
    too_much,
    zip_entries,
)

_BLOCK = 512
_PIECE = 1 << 20
_FIELD = 100
_LAST_SECOND = 8**11 - 1
_TYPES = {Kind.FILE: b"0", Kind.LINK: b"2", Kind.DIRECTORY: b"5"}
END = bytes(2 * _BLOCK)
"""The end of a tar."""


def header(name: bytes, entry: TreeEntry) -> bytes:
    """Return everything that precedes the content of an entry named `name`."""
    kind, link = _TYPES[entry.kind], entry.data if entry.kind is Kind.LINK else b""
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    size = len(entry.data) if entry.kind is Kind.FILE else 0
    return _extended(name, link) + _block(name, entry.mode, size, entry.modified, kind, link)


def content(entry: TreeEntry) -> Iterator[bytes]:
    """Yield a file's bytes in pieces, padded to a block; nothing for other entries."""
    if entry.kind is not Kind.FILE:
        return
    for at in range(0, len(entry.data), _PIECE):
        yield entry.data[at : at + _PIECE]
    yield bytes(-len(entry.data) % _BLOCK)


def _extended(name: bytes, link: bytes) -> bytes:
    """Return the PAX header that a reader needs for these names; usually empty."""
    keys = {b"path": name, b"linkpath": link}
    given = {key: value for key, value in keys.items() if not _fits(value)}
    if not given:
        return b""
    if not all(map(is_utf_8, given.values())):
        given = {b"hdrcharset": b"BINARY", **given}
    body = b"".join(_record(key, value) for key, value in given.items())
    head = _block(b"././@PaxHeader", 0o644, len(body), 0, b"x", b"")
    return head + body + bytes(-len(body) % _BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """Return `LENGTH KEY=VALUE` and a newline; the length includes its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


def _block(name: bytes, mode: int, size: int, modified: int, kind: bytes, link: bytes) -> bytes:
    fields = b"".join(
        (
            name[:_FIELD].ljust(_FIELD, b"\0"),
            b"%07o\0" % (mode & 0o777),
            b"0000000\0" * 2,
            b"%011o\0" % size,
            b"%011o\0" % min(max(modified, 0), _LAST_SECOND),
            b" " * 8,
            kind,
            link[:_FIELD].ljust(_FIELD, b"\0"),
            b"ustar\x0000",
        )
    ).ljust(_BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _fits(value: bytes) -> bool:
    return len(value) <= _FIELD and value.isascii()


Check = Callable[[], None]
"""Called repeatedly while an archive is processed; may raise to stop it."""


def no_check() -> None:
    """Never stop."""


def read_archive(data: bytes, check: Check = no_check) -> list[TreeEntry]:
    """Return all entries of a client's archive, checked.

    Raises InvalidArgument for hostile entries and for data that is not an archive, TooLarge over
    the limits, and what `check` raises.
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
    """Return all entries of an archive by `write_archive`, checked again; there may be none.

    Raises as `read_archive` does. A file may be as large as the whole tree.
    """
    return _all_checked(lambda known: tar_entries(data, known, largest=MAX_TREE_BYTES), no_check)


def _all_checked(read: Callable[[Known], Iterable[TreeEntry]], check: Check) -> list[TreeEntry]:
    """Return the entries in order.

    Of files and links with one name, the last one counts, in its position: archives grow at the
    end.
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
    """Return the entry with a clean name; None for the root itself. Raises InvalidArgument."""
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
    entries: Iterable[TreeEntry | Skipped], out: io.RawIOBase, check: Check = no_check
) -> LeftOut:
    """Write entries from a guest as a tar.gz; return what was left out and why.

    Names stay inside the tree, links point where they do in the guest; owners are 0, modes have no
    special bits. An entry without a name means that the guest stopped early: raises TooLarge.
    Raises ValueError for malformed input, and what `check` raises.
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
