# SPDX-License-Identifier: Apache-2.0
"""The plan of `waggle cp`: its words as places, and the names of copies. Pure.

As with scp, a word with a colon before any slash is a place in an environment: `NAME:PATH`. A file
on this host with a colon in its name is written `./a:b`. `CopyFailed` is the error of a copy.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import InvalidArgument, WaggleError

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
    here = [each for each in sources if isinstance(each, Path)]
    there = [each for each in sources if isinstance(each, Remote)]
    if isinstance(target, Remote) and not there:
        return Upload(tuple(here), target)
    if isinstance(target, Path) and not here:
        return Download(tuple(there), target)
    what = "both sides are environments" if there else "neither side is an environment"
    raise InvalidArgument(f"Nothing can be copied so: {what}.", hint=_USE)


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
