# SPDX-License-Identifier: Apache-2.0
"""Files inside a guest: entries, paths, modes, and advice where a path leads to nothing. Pure.

Used by `waggle.service.files`, which asks the guest. A path belongs to the guest: every path
in there is allowed, and nothing of the host can be named. The guest chooses the names of entries.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Final

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import encoded

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_LIST_ENTRIES = 2_000
MAX_PATH_BYTES = 4_095
DEFAULT_MODE = 0o644
_AT_HOME = re.compile(r"(?:~|\$HOME|\$\{HOME\})(?=/|\Z)/*")
_SCHEME = re.compile(r"(?:file://|sandbox:)(?=/)")
"""Prefixes that models write before a path, as in links."""
_HERE = re.compile(r"(?:/\.)+(?=/)")
_OF_WINDOWS = re.compile(r"[A-Za-z]:(?:\\|/(?:Users|Windows|Program))")
_OF_A_USER = re.compile(r"~[A-Za-z_][A-Za-z0-9_-]*(?=/|\Z)")
_MODE = re.compile(r"(?:0o|0)?([0-7]{1,4})", re.ASCII)
_ADDS_X = re.compile(r"a?\+x")
_USUAL_MODES = frozenset(
    int(f"{owner}{group}{other}", 8)
    for owner in (4, 5, 6, 7)
    for group in (0, 1, 4, 5, 6, 7)
    for other in (0, 1, 4, 5, 6, 7)
    if owner & group == group and group & other == other and (owner, group) != (5, 1)
)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of a directory. `mode` is the permission bits; `size` is bytes."""

    name: str
    size: int
    is_dir: bool
    is_link: bool
    mode: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A part of a file: the bytes, and the size of the whole file at that time."""

    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class FileVersion:
    """The state that shows a file's changes: size in bytes, seconds since the epoch, permissions.

    Another change of the same size within the same second is not noticed.
    """

    size: int
    modified: int
    mode: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's entries by name; `truncated` when it holds more than MAX_LIST_ENTRIES."""

    path: str
    entries: tuple[FileEntry, ...]
    truncated: bool


def parse_path(text: str) -> str:
    """Return a guest path: absolute, or `~` or `~/...`, which `at_home` makes absolute.

    A relative path counts from HOME; `~` and `$HOME` are the home directory of the user that
    programs run as, which the guest knows. `..` is left to the guest's kernel, which resolves it
    inside the guest. Raises InvalidArgument for an empty path, one with NUL or lone surrogates, one
    of another user's home or of Windows, and one that is too long for any Linux.
    """
    if not text or "\0" in text:
        raise InvalidArgument(
            "The path is empty or contains a NUL character.",
            hint=f"Name it from the root, or from {HOME}, as in data/a.csv.",
        )
    if other := _OF_A_USER.match(text):
        raise InvalidArgument(
            f"{other[0][:40]} would be the home directory of a user.",
            hint=f"Write ~/ for your own, or ./{other[0][:40]} for a file of that name.",
        )
    if _OF_WINDOWS.match(text):
        raise InvalidArgument(
            f"{text[:40]!r} is a path of Windows, and this is a Linux machine with its own files.",
            hint=f"Name it from the root, or from {HOME}, as in data/a.csv.",
        )
    text = _SCHEME.sub("", text, count=1)
    path = _AT_HOME.sub("~/", text, count=1) if _AT_HOME.match(text) else text
    path = path if path.startswith(("/", "~/")) else posixpath.join(HOME, path)
    path = path if path.startswith("~") else _HERE.sub("", path)
    if len(encoded(path, "The path")) > MAX_PATH_BYTES:
        raise InvalidArgument(
            f"The path is over {MAX_PATH_BYTES} bytes.", hint="No Linux has such paths: shorten it."
        )
    return path


def at_home(path: str, home: str) -> str:
    """Return the absolute path for a result of `parse_path`, where the user's home is `home`."""
    return posixpath.join(home, path[2:]) if path.startswith("~/") else path


def check_content(data: bytes) -> bytes:
    """Return the content of a file unchanged. Raises TooLarge."""
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(
            f"The content is {len(data)} bytes; the limit is {MAX_FILE_BYTES}.",
            hint="Write it in parts, or download it from inside the environment.",
        )
    return data


def parse_mode(given: str | int) -> int:
    """Return permission bits given in octal: `0644`, `755`, `0o755`, or the number 755.

    `+x` is 0755. A number that is no usual mode in octal but is one in decimal is taken as decimal:
    493 is 0o755. Raises InvalidArgument.
    """
    if isinstance(given, str) and _ADDS_X.fullmatch(given):
        return 0o755
    digits = _MODE.fullmatch(str(given))
    octal = int(digits[1], 8) if digits else None
    if isinstance(given, int) and octal not in _USUAL_MODES and given in _USUAL_MODES:
        return given
    if octal is None:
        raise InvalidArgument(
            f"{str(given)[:20]!r} is not a file mode.", hint='Use octal, such as "0644" or "0755".'
        )
    return octal


MAX_PARENTS: Final = 8
"""Directories that the guest is asked for, from the nearest."""
_MAX_NAMED: Final = 12
_MAX_NAME: Final = 80
_MAX_COMPARED: Final = 500
EMPTY_PLACES: Final = frozenset({"/", "/home", "/mnt", "/media"})
"""Directories with no user's files in them: the home directory is shown instead."""


def parents(path: str) -> Sequence[str]:
    """Return the directories above a path, the nearest first, always with the root."""
    found: list[str] = []
    while path != "/" and len(found) < MAX_PARENTS:
        path = posixpath.dirname(path.rstrip("/")) or "/"
        found.append(path)
    return found if path == "/" else (*found, "/")


def describe_nearest(path: str, listing: Listing) -> str:
    """Return sentences about the nearest existing directory, to follow "There is no PATH."."""
    inside = posixpath.relpath(path, listing.path)
    part = posixpath.basename(path) if inside.startswith("..") else inside.partition("/")[0]
    meant = _meant(part, [entry.name for entry in listing.entries[:_MAX_COMPARED]])
    where = _shown(listing.path)
    if "\\x" in meant and posixpath.join(listing.path, meant) == path:
        return (
            f"{_shown(part)} in {where} has a name that is no UTF-8: rename it with a program, "
            "or have one read it."
        )
    if inside[:2] != ".." and any(e.name == part and e.is_link for e in listing.entries):
        return f"{_shown(posixpath.join(listing.path, part))} is a link to what is not there."
    likely = f"Did you mean {_shown(posixpath.join(listing.path, meant))}? " if meant else ""
    if not listing.entries:
        return f"{where} is empty."
    named = ", ".join(_entry(entry) for entry in listing.entries[:_MAX_NAMED])
    more = len(listing.entries) - _MAX_NAMED
    rest = f" and {more}{' or more' if listing.truncated else ''} others" if more > 0 else ""
    return f"{likely}{where} has {named}{rest}."


def _meant(name: str, there: Sequence[str]) -> str:
    """Return the entry that is most like the name; empty if none is."""
    folded = {entry.casefold(): entry for entry in reversed(there)}
    found = get_close_matches(name[:_MAX_NAME].casefold(), folded, 1, 0.65)
    return folded[found[0]] if found else ""


def _entry(entry: FileEntry) -> str:
    return _shown(entry.name) + ("/" if entry.is_dir else "")


def _shown(name: str) -> str:
    """Return a name on one line; a long one is cut at its start, as its end says most."""
    kept = "".join(c if c.isprintable() else "?" for c in name)
    return kept if len(kept) <= _MAX_NAME else f"...{kept[-_MAX_NAME:]}"
