# SPDX-License-Identifier: Apache-2.0
"""The sources of `waggle cp`: its words as places, and the files of this host as archives.

As with scp, a word with a colon before any slash is a place in an environment: `NAME:PATH`. A file
on this host with a colon in its name is written `./a:b`. Links are copied as links, except that the
source itself is followed. Entries that cannot be copied are left out and reported.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import MAX_TREE_FILE, Skipped, check_target, clean_name

_USE = "Write SOURCE... ENVIRONMENT:PATH, or ENVIRONMENT:PATH... DESTINATION."


@dataclass(frozen=True, slots=True)
class Remote:
    """A path in an environment. Relative paths, and an empty one, start at the home directory."""

    environment: str
    path: str

    @property
    def name(self) -> str:
        """The name of a copy; empty if the content is meant, as with `/`, `.` and `..`."""
        name = posixpath.basename(self.path.rstrip("/"))
        return "" if name in (".", "..") else name

    def __str__(self) -> str:
        return f"{self.environment}:{self.path}"


@dataclass(frozen=True, slots=True)
class Upload:
    """A copy from this host into an environment."""

    sources: tuple[Path, ...]
    target: Remote


@dataclass(frozen=True, slots=True)
class Download:
    """A copy out of environments to this host."""

    sources: tuple[Remote, ...]
    target: Path


def plan(words: Sequence[str]) -> Upload | Download:
    """Return the copy that the words ask for. Raises InvalidArgument if it is not in or out."""
    if len(words) < 2:
        raise InvalidArgument("A source and a destination are needed.", hint=_USE)
    *sources, target = (place(word) for word in words)
    here = [source for source in sources if isinstance(source, Path)]
    there = [source for source in sources if isinstance(source, Remote)]
    if isinstance(target, Remote) and not there:
        return Upload(tuple(here), target)
    if isinstance(target, Path) and not here:
        return Download(tuple(there), target)
    why = "both sides are environments" if there else "neither side is an environment"
    raise InvalidArgument(f"Nothing can be copied: {why}.", hint=_USE)


def place(word: str) -> Path | Remote:
    """Parse a word as a place. Raises InvalidArgument for an empty word or environment."""
    before, colon, path = word.partition(":")
    if not word or (colon and not before):
        raise InvalidArgument(f"{word!r} is no place.", hint=_USE)
    return Remote(before, path) if colon and "/" not in before else Path(word)


def uploaded_to(target: Remote, name: str, *, into: bool) -> tuple[str, str]:
    """Return the directory in the environment to unpack in, and the source's name there.

    `into` is whether the target is a directory, existing or to be made.
    """
    if into or not target.name:
        return target.path or ".", name
    return posixpath.dirname(target.path.rstrip("/")) or ".", target.name


def downloaded_to(target: Path, source: Remote, *, into: bool) -> Path:
    """Return the path to write a source to. `into` is whether the target is a directory."""
    return target / source.name if into and source.name else target


class CopyFailed(WaggleError):
    """A file or directory cannot be copied: the source or the destination does not allow it."""

    code = "copy_failed"


PIECE_BYTES = 4 << 20
"""Bytes of files in one archive, unless one file is larger; a server accepts 10 MiB."""
PIECE_ENTRIES = 2_000


@dataclass(frozen=True, slots=True)
class Found:
    """An entry to copy: its name in the archive, its path and its facts."""

    name: bytes
    path: bytes
    kind: Kind
    mode: int
    modified: int
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """The entries of one source, in the order of an archive: directories before their content."""

    found: tuple[Found, ...]
    left_out: tuple[Skipped, ...]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.found)


def look(source: Path, name: str, *, recursive: bool) -> Source:
    """Inspect `source`, to be copied as `name`. Raises CopyFailed if it cannot be copied."""
    try:
        about = source.stat()
    except OSError as error:
        raise CopyFailed(f"{source} cannot be read: {error.strerror}.") from error
    top = os.fsencode(name)
    if stat.S_ISDIR(about.st_mode):
        if not recursive:
            raise CopyFailed(f"{source} is a directory.", hint="Copy a tree with -r.")
        return _tree(os.fsencode(source), top, about)
    path = os.fsencode(source)
    why = _unfit(about) or (None if os.access(source, os.R_OK) else "it cannot be read")
    if why:
        raise CopyFailed(f"{source} cannot be copied: {why}.")
    return Source((_found(top, path, Kind.FILE, about),), ())


def _tree(root: bytes, top: bytes, about: os.stat_result) -> Source:
    found = [_found(top, root, Kind.DIRECTORY, about)]
    left_out: list[Skipped] = []
    waiting = [(root, b"")]
    while waiting:
        directory, below = waiting.pop()
        try:
            with os.scandir(directory) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            left_out.append(Skipped(below or top, error.strerror or "it cannot be read"))
            continue
        for entry in entries:
            name = below + b"/" + entry.name if below else entry.name
            inspected = _entry(entry, top, name)
            if isinstance(inspected, Skipped):
                left_out.append(inspected)
                continue
            found.append(inspected)
            if inspected.kind is Kind.DIRECTORY:
                waiting.append((entry.path, name))
    return Source(tuple(found), tuple(left_out))


def _entry(entry: os.DirEntry[bytes], top: bytes, name: bytes) -> Found | Skipped:
    """Inspect an entry of a tree. `name` is its path below the tree's root."""
    try:
        about = entry.stat(follow_symlinks=False)
        clean_name(name)
        if stat.S_ISLNK(about.st_mode):
            check_target(os.readlink(entry.path))  # noqa: PTH115 (a name in bytes)
            kind = Kind.LINK
        elif stat.S_ISDIR(about.st_mode):
            kind = Kind.DIRECTORY
        elif why := _unfit(about) or (None if os.access(entry.path, os.R_OK) else "no permission"):
            return Skipped(name, why)
        else:
            kind = Kind.FILE
    except OSError as error:
        return Skipped(name, error.strerror or "it cannot be read")
    except ValueError as error:
        return Skipped(name, str(error))
    return _found(b"/".join(filter(None, (top, name))), entry.path, kind, about)


def _unfit(about: os.stat_result) -> str | None:
    if not stat.S_ISREG(about.st_mode):
        return "it is no file, directory or link"
    if about.st_size > MAX_TREE_FILE:
        return f"it has {about.st_size:,} bytes; one file may have {MAX_TREE_FILE:,}"
    return None


def _found(name: bytes, path: bytes, kind: Kind, about: os.stat_result) -> Found:
    size = about.st_size if kind is Kind.FILE else 0
    modified = max(0, int(about.st_mtime))
    return Found(name, path, kind, stat.S_IMODE(about.st_mode) & 0o777, modified, size)


def pieces(
    found: Sequence[Found], size: int = PIECE_BYTES, count: int = PIECE_ENTRIES
) -> Iterator[Sequence[Found]]:
    """Split the entries, in order, into pieces of at most `count` entries. Pure.

    A piece has at most `size` bytes, unless it is one larger file.
    """
    piece: list[Found] = []
    total = 0
    for entry in found:
        if piece and (total + entry.size > size or len(piece) >= count):
            yield piece
            piece, total = [], 0
        piece.append(entry)
        total += entry.size
    if piece:
        yield piece


def pack(piece: Sequence[Found]) -> tuple[bytes, list[Skipped]]:
    """Return a tar of a piece, and the entries that could not be read after all.

    A file that has grown is cut to its inspected size.
    """
    out = io.BytesIO()
    left_out: list[Skipped] = []
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in piece:
            if not entry.name:
                continue  # the tree's root, which exists
            try:
                _add(tar, entry)
            except OSError as error:
                left_out.append(Skipped(entry.name, error.strerror or "it cannot be read"))
    return out.getvalue(), left_out


def _add(tar: tarfile.TarFile, entry: Found) -> None:
    info = tarfile.TarInfo(entry.name.decode("utf-8", "surrogateescape"))
    info.mode, info.mtime = entry.mode, entry.modified
    match entry.kind:
        case Kind.DIRECTORY:
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        case Kind.LINK:
            info.type = tarfile.SYMTYPE
            target = os.readlink(entry.path)  # noqa: PTH115 (a name in bytes)
            info.linkname = target.decode("utf-8", "surrogateescape")
            tar.addfile(info)
        case _:
            with open(entry.path, "rb", opener=_unfollowed) as file:
                data = file.read(entry.size)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _unfollowed(path: str, flags: int) -> int:
    """Open without waiting if a FIFO has taken the file's place."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
