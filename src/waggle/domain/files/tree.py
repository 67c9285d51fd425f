# SPDX-License-Identifier: Apache-2.0
"""Trees of files on their way into or out of a guest: records, and the layout of entries. Pure.

Used for archives of clients and for what a guest packed. The records are those of
rootfs/kit/guest/pack.c and unpack.c. Names are bytes and may be hostile: the limits here bound
memory, whatever the names are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from waggle.domain.errors import TooLarge
from waggle.domain.files.search import Kind

MAX_TREE_BYTES = 64 * 1024 * 1024
"""Bytes of all files of one tree together."""
MAX_TREE_ENTRIES = 20_000
MAX_TREE_FILE = 10_000_000
"""Bytes of one uploaded file: the most that one run takes on its standard input."""
MAX_ARCHIVE_BYTES = 10 * 1024 * 1024
MAX_RECORDS_BYTES = MAX_TREE_BYTES + MAX_TREE_ENTRIES * 4_500
"""Bytes of all records of a packed tree."""
MAX_LISTED = 100
"""The most names in a list of entries that failed or were left out; unpack.c lists no more."""
_MAX_NAME = 4_095
_MAX_COMPONENT = 255
_MAX_DEPTH = 100
_HEAD = 9_000
_END = "e"
_SKIPPED = "s"
_LONGEST = {_END: 200, _SKIPPED: 200, "d": 0, "l": _MAX_NAME, "f": MAX_TREE_BYTES}
"""The most bytes after the name of each kind of record that pack.c writes."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file, directory or link. `data` is the file's bytes or the link's target."""

    kind: Kind
    name: bytes
    mode: int = 0o644
    modified: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not in the tree, and why."""

    name: bytes
    reason: str


@dataclass(slots=True)
class LeftOut:
    """The count of entries that are not in a tree, and the first MAX_LISTED of them."""

    count: int = 0
    first: list[Skipped] = field(default_factory=list[Skipped])

    def add(self, skipped: Skipped) -> None:
        """Add one entry."""
        self.count += 1
        if self.count <= MAX_LISTED:
            self.first.append(skipped)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The result of unpacking a tree. `failures` are the first ones, of `failed` in all."""

    files: int = 0
    directories: int = 0
    links: int = 0
    size: int = 0
    failed: int = 0
    failures: tuple[Skipped, ...] = ()

    def __add__(self, other: Unpacked) -> Unpacked:
        """Return both together, with the first MAX_LISTED failures."""
        return Unpacked(
            self.files + other.files,
            self.directories + other.directories,
            self.links + other.links,
            self.size + other.size,
            self.failed + other.failed,
            (self.failures + other.failures)[:MAX_LISTED],
        )


def encode(entry: TreeEntry) -> bytes:
    """Return the record for the guest, whose modes have no special bits."""
    head = f"{entry.kind} {entry.mode & 0o777:o} {max(0, entry.modified)} {len(entry.data)}"
    return b"%b\0%b\0%b" % (head.encode(), entry.name, entry.data)


def decode(read: Callable[[int, int], bytes], size: int) -> Iterator[TreeEntry | Skipped]:
    """Yield the records that a guest wrote; `read` returns bytes from an offset, `size` is the end.

    A tree that the guest cut short ends with a Skipped without a name. Raises ValueError for an
    invalid record, for more records than pack.c writes, and when the end is missing.
    """
    offset = count = 0
    while offset < size:
        if count > MAX_TREE_ENTRIES:
            raise ValueError("too many records")
        count += 1
        head, name, *rest = read(offset, _HEAD).split(b"\0", 2)
        if not rest or len(head) > 80:
            raise ValueError("not a record")
        kind, mode, modified, length = _head(head)
        offset += len(head) + len(name) + 2
        if length > min(size - offset, _LONGEST[kind]):
            raise ValueError("a record is cut off or too long")
        data = read(offset, length) if length else b""
        offset += length
        if kind == _END:
            if data:
                yield Skipped(b"", _words(data))
            return
        if kind == _SKIPPED:
            yield Skipped(name, _words(data))
        else:
            yield TreeEntry(Kind(kind), name, mode, modified, data)
    raise ValueError("the end is missing")


def _head(head: bytes) -> tuple[str, int, int, int]:
    kind, mode, modified, length = head.decode("ascii").split(" ")
    if kind not in _LONGEST or int(length) < 0:
        raise ValueError("an unknown kind of record, or a negative length")
    return kind, int(mode, 8) & 0o777, max(0, min(int(modified), 1 << 33)), int(length)


def _words(data: bytes) -> str:
    text = data[:100].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def clean_name(name: bytes) -> bytes:
    """Return a relative name without empty parts and `.`; empty for the tree's own root.

    Raises ValueError, with the reason in words, for names that lead out of the tree or that no file
    system takes.
    """
    if b"\0" in name or len(name) > _MAX_NAME:
        raise ValueError("its name is too long or holds a NUL byte")
    if name.startswith(b"/"):
        raise ValueError("its name is absolute")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ValueError("its name leads out of the tree with '..'")
    if len(parts) > _MAX_DEPTH or any(len(part) > _MAX_COMPONENT for part in parts):
        raise ValueError("its name is too long or too deep")
    return b"/".join(parts)


def check_target(target: bytes) -> None:
    """Raise ValueError for an impossible link target. Where it leads is not checked."""
    if not target or b"\0" in target or len(target) > _MAX_NAME:
        raise ValueError("it is a link without a possible target")


def check_link(name: bytes, target: bytes) -> None:
    """Raise ValueError unless the link stays in the tree, whatever other links it passes.

    So `..` may only begin the target: after a name, which may itself be a link, it could lead
    anywhere.
    """
    check_target(target)
    if target.startswith(b"/"):
        raise ValueError("it is a link to an absolute path")
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    climbs = parts.count(b"..")
    if any(part != b".." for part in parts[:climbs]) or climbs > name.count(b"/"):
        raise ValueError("it is a link that leads out of the tree")


def shown_name(name: bytes) -> str:
    """Return a name for people and JSON: one line, other bytes than UTF-8 escaped as in Python."""
    text = name[:400].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


MAX_TREE_NODES = 100_000
"""Different paths of one tree, including directories that only appear in the names of entries."""
MAX_TREE_NAMES = 8 * 1024 * 1024
"""Bytes of all names of one tree together."""

_Node = dict[bytes, "_Node | Kind"]


class Layout:
    """The paths of a tree so far: nothing lies below a non-directory, and so nothing behind a link.

    Kept as a tree of components, so that a deep name takes memory for its components only.
    """

    def __init__(self, *, nodes: int = MAX_TREE_NODES, names: int = MAX_TREE_NAMES) -> None:
        self._root: _Node = {}
        self._nodes_left = nodes
        self._bytes_left = names

    def add(self, name: bytes, kind: Kind) -> bool:
        """Add a clean name; return whether it replaces an earlier file or link.

        A directory may come twice. Raises ValueError, with the reason in words, also for a
        directory and something else of one name, and TooLarge beyond the bounds.
        """
        self._bytes_left -= len(name)
        *above, last = name.split(b"/")
        directory = self._root
        for part in above:
            found = directory.get(part)
            if found is None:
                found = self._make(directory, part)
            elif not isinstance(found, dict):
                raise ValueError("it lies below something that is not a directory")
            directory = found
        return self._place(directory, last, kind)

    def _place(self, directory: _Node, name: bytes, kind: Kind) -> bool:
        known = directory.get(name)
        if known is not None and isinstance(known, dict) != (kind is Kind.DIRECTORY):
            raise ValueError("its name comes twice")
        if known is None:
            self._count()
            directory[name] = {} if kind is Kind.DIRECTORY else kind
        return known is not None and kind is not Kind.DIRECTORY

    def _make(self, directory: _Node, name: bytes) -> _Node:
        self._count()
        made: _Node = {}
        directory[name] = made
        return made

    def _count(self) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0 or self._bytes_left < 0:
            raise TooLarge(
                f"The tree has more than {MAX_TREE_NODES:,} names, directories included, or "
                f"{MAX_TREE_NAMES:,} bytes of names.",
                hint="Take a part of it at a time.",
            )
