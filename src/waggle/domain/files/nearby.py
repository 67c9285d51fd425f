# SPDX-License-Identifier: Apache-2.0
"""What there is where a path leads to nothing: the nearest directory, and what is in it. Pure.

Used by `waggle.service.files.nearby`, which asks the guest. Names of entries are the guest's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from waggle.domain.files.filesystem import FileEntry, Listing

MAX_PARENTS: Final = 8
"""Directories that are asked for, from the nearest."""
_MAX_NAMED: Final = 12
_MAX_NAME: Final = 80
_MAX_COMPARED: Final = 500
EMPTY_PLACES: Final = frozenset({"/", "/home", "/mnt", "/media"})
"""Directories with nothing of a user's in them: the home directory is told instead."""


def parents(path: str) -> Sequence[str]:
    """The directories that may be there, the nearest first, and the root in any case."""
    found: list[str] = []
    while path != "/" and len(found) < MAX_PARENTS:
        path = posixpath.dirname(path.rstrip("/")) or "/"
        found.append(path)
    return found if path == "/" else (*found, "/")


def told(path: str, listing: Listing) -> str:
    """Sentences about a directory that is there instead, after "There is no PATH."."""
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
    """The entry that is most like the name; empty if none is."""
    folded = {each.casefold(): each for each in reversed(there)}
    found = get_close_matches(name[:_MAX_NAME].casefold(), folded, 1, 0.65)
    return folded[found[0]] if found else ""


def _entry(entry: FileEntry) -> str:
    return _shown(entry.name) + ("/" if entry.is_dir else "")


def _shown(name: str) -> str:
    """On one line; a directory is told by its end, which says most."""
    kept = "".join(c if c.isprintable() else "?" for c in name)
    return kept if len(kept) <= _MAX_NAME else f"...{kept[-_MAX_NAME:]}"
