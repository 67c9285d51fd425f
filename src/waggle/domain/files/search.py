# SPDX-License-Identifier: Apache-2.0
"""Searching a guest's files: the query, the matches, and the meaning of globs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.runtime import NUL_HINT, encoded

MAX_RESULTS = 1_000
DEFAULT_RESULTS = 100
MAX_CONTEXT = 10
MAX_ENTRIES = 200_000
MAX_DEPTH = 100
SEARCH_SECONDS = 20
MAX_PATTERN = 1_000
MAX_EXCLUDES = 50
ALWAYS_SKIPPED = (".git", "node_modules", "__pycache__", ".venv")
"""Names that are skipped unless the caller says otherwise."""


class Kind(StrEnum):
    """The type of an entry. The values are the kit's letters."""

    FILE = "f"
    DIRECTORY = "d"
    LINK = "l"
    OTHER = "o"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """The search below `path`: names by a glob, lines by a text, or lines in files by name.

    Raises InvalidArgument when built.
    """

    path: str
    name: str | None = None
    content: str | None = None
    regex: bool = False
    ignore_case: bool = False
    max_results: int = DEFAULT_RESULTS
    context_lines: int = 0
    exclude: tuple[str, ...] = ALWAYS_SKIPPED

    def __post_init__(self) -> None:
        """Refuse an impossible query."""
        if not self.name and not self.content:
            raise InvalidArgument(
                "Say what to find: name, content or both.",
                hint='For example name "*.py", or content "def main".',
            )
        for pattern in (self.name or "", self.content or "", *self.exclude):
            check_pattern(pattern)
        if not 1 <= self.max_results <= MAX_RESULTS:
            raise InvalidArgument(
                f"max_results must be 1 to {MAX_RESULTS}.",
                hint=f"Leave it out for {DEFAULT_RESULTS}, or search in a part of the tree.",
            )
        if not 0 <= self.context_lines <= MAX_CONTEXT:
            raise InvalidArgument(
                f"context_lines must be 0 to {MAX_CONTEXT}.",
                hint="Read more around a match with read_file; leave it out for none.",
            )
        if not self.regex and "\n" in (self.content or ""):
            raise InvalidArgument(
                "The content to find has several lines.", hint="Search for one of them."
            )


@dataclass(frozen=True, slots=True)
class Match:
    """A name, or a line and its place; paths are absolute, texts as the guest has them.

    `line` and `column` count from 1, the column in bytes; both are 0 for a name. Long lines are cut
    around the place.
    """

    path: str
    kind: Kind
    size: int | None = None
    line: int = 0
    column: int = 0
    text: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Searched:
    """The matches, by path. `stopped` says why the search ended early; empty when it did not.

    It is one of results, output, entries, bytes, time.
    """

    path: str
    matches: tuple[Match, ...]
    stopped: str = ""
    entries: int = 0
    files: int = 0
    binary: int = 0
    large: int = 0
    unreadable: int = 0


def check_pattern(pattern: str) -> None:
    """Raise InvalidArgument for a pattern that no argument of a program can carry."""
    if len(pattern) > MAX_PATTERN:
        raise InvalidArgument(
            f"A pattern has more than {MAX_PATTERN} characters.",
            hint="Search for a part of it that is rare.",
        )
    if "\0" in pattern:
        raise InvalidArgument("A pattern contains a NUL character.", hint=NUL_HINT)
    encoded(pattern, "A pattern")


def check_excludes(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return globs to leave out, without empty ones. Raises InvalidArgument."""
    if len(patterns) > MAX_EXCLUDES:
        raise InvalidArgument(
            f"exclude has more than {MAX_EXCLUDES} patterns.",
            hint="Join some, as in *.{log,tmp}, or search in a part of the tree.",
        )
    for pattern in patterns:
        check_pattern(pattern)
    return tuple(pattern for pattern in patterns if pattern.strip("/"))


def glob_expression(globs: Sequence[str]) -> str:
    """Return an extended regular expression for relative paths that any of the globs matches.

    A glob without a slash matches the last name of a path, one with a slash the whole path. `*` and
    `?` stop at slashes, `**` does not; `[ab]`, `[!ab]` and `{a,b}` mean what shells mean.
    """
    return "|".join(_expression(glob) for glob in globs)


def glob_below(glob: str, path: str) -> str:
    """Return a glob for paths below `path`, from one that may name that directory, too."""
    return glob.removeprefix(f"{path.rstrip('/')}/")


def _expression(glob: str) -> str:
    glob = glob.removeprefix("./").strip("/")
    start = "^" if "/" in glob else "(^|/)"
    return f"{start}{''.join(_pieces(glob))}$"


_TOKEN = re.compile(r"(\*\*/)|(\*\*)|(\*)|(\?)|(\[[!^]?\]?[^\]/]*\])|(.)", re.DOTALL)


def _pieces(glob: str) -> Iterator[str]:
    depth = 0
    closes = glob.count("}")
    for piece in (match.group() for match in _TOKEN.finditer(glob)):
        if piece == "**/":
            yield "(.*/)?"
        elif piece == "**":
            yield ".*"
        elif piece == "*":
            yield "[^/]*"
        elif piece == "?":
            yield "[^/]"
        elif len(piece) > 1:
            yield "[^" + piece[2:] if piece[1] in "!^" else piece
        elif piece == "{" and depth < closes:
            depth += 1
            yield "("
        elif piece == "}" and depth:
            depth -= 1
            yield ")"
        elif piece == "," and depth:
            yield "|"
        else:
            yield escaped(piece)
    yield ")" * depth


def escaped(text: str) -> str:
    """Return `text` as an extended regular expression that matches only it."""
    return "".join(f"\\{c}" if c in r"\.[]{}()*+?^$|" else c for c in text)
