# SPDX-License-Identifier: Apache-2.0
"""What is copied where: the words of `waggle cp` as places, and how a copy is named. Pure.

As with scp, a word with a colon before any slash is a place in an environment: `NAME:PATH`. A file
here with such a name is written `./a:b`.

What stops a copy on this machine's side.
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
    """A path in an environment; relative ones, and an empty one, begin in its home directory."""

    environment: str
    path: str

    @property
    def name(self) -> str:
        """What a copy is called; empty where what is in it is meant, as with `/` and `.`."""
        name = posixpath.basename(self.path.rstrip("/"))
        return "" if name in (".", "..") else name

    def __str__(self) -> str:
        return f"{self.environment}:{self.path}"


@dataclass(frozen=True, slots=True)
class Upload:
    """From here into an environment."""

    sources: tuple[Path, ...]
    target: Remote


@dataclass(frozen=True, slots=True)
class Download:
    """Out of environments to here."""

    sources: tuple[Remote, ...]
    target: Path


def plan(words: Sequence[str]) -> Upload | Download:
    """What is to be done. Raises InvalidArgument for what is no copy in or out."""
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
    """A place here or in an environment. Raises InvalidArgument for an empty word or name."""
    before, colon, path = word.partition(":")
    if not word or (colon and not before):
        raise InvalidArgument(f"{word!r} is no place.", hint=_USE)
    return Remote(before, path) if colon and "/" not in before else Path(word)


def uploaded_to(target: Remote, name: str, *, into: bool) -> tuple[str, str]:
    """The directory in the environment to unpack in, and what the source is called there.

    `into` says whether the target is a directory that there is, or is to be made.
    """
    if into or not target.name:
        return target.path or ".", name
    return posixpath.dirname(target.path.rstrip("/")) or ".", target.name


def downloaded_to(target: Path, source: Remote, *, into: bool) -> Path:
    """Where a source is written; `into` says whether the target is a directory that there is."""
    return target / source.name if into and source.name else target


class CopyFailed(WaggleError):
    """A file or directory here, or what it would become, stands in the way."""

    code = "copy_failed"
