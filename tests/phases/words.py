# SPDX-License-Identifier: Apache-2.0
"""Checks that code and documents use the glossary's words: `python -m tests.phases.words`.

`./task check` runs it. The banned words and what to say instead are the table in
docs/architecture.md; the exceptions, with their reasons, are here.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = "docs/architecture.md"
CHECKED = ("src/waggle/**/*.py", "docs/*.md", "README.md", "CLAUDE.md")
ROW = re.compile(
    r"^\| (?P<banned>`.+`) \| (?P<where>everywhere|names) \| (?P<instead>.+) \|$", re.M
)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("src/waggle/domain/errors.py", "moment"): "moment_unusable: a code that clients know",
    ("src/waggle/config/places.py", "moments"): "a directory that servers have made",
    ("docs/architecture.md", "moments"): "a directory that servers have made",
    ("docs/snapshots.md", "moment"): "moment_unusable: a code that clients know",
    ("src/waggle/mcp/tool_names.py", "hibernate"): "a word that agents search for",
    ("src/waggle/mcp/tools/snapshots.py", "hibernate"): "a word that agents search for",
}
"""Reasons by file and banned word."""


@dataclass(frozen=True, slots=True)
class Banned:
    """A word, or several, in lower case. `only_names`: it is fine in prose."""

    words: str
    only_names: bool
    instead: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A banned word in a line of a file."""

    path: str
    line: int
    banned: Banned

    def __str__(self) -> str:
        """Return one line for people and editors."""
        return f"{self.path}:{self.line}: '{self.banned.words}': say {self.banned.instead}"


def banned_words(glossary: str) -> list[Banned]:
    """Return the rows of the table in the glossary's text."""
    return [
        Banned(words, row["where"] == "names", row["instead"])
        for row in ROW.finditer(glossary)
        for words in re.findall("`([^`]+)`", row["banned"])
    ]


def find(path: str, text: str, banned: list[Banned]) -> Iterator[Finding]:
    """Yield the banned words in a Python source or a document, in order."""
    pieces = _tokens(text) if path.endswith(".py") else _lines(text)
    for line, is_name, piece in pieces:
        said = f" {' '.join(word.lower() for word in WORD.findall(piece))} "
        for entry in banned:
            if f" {entry.words} " not in said or (path, entry.words) in EXCEPTIONS:
                continue
            if is_name or not entry.only_names:
                yield Finding(path, line, entry)


def _tokens(text: str) -> Iterator[tuple[int, bool, str]]:
    """Yield names, and the lines of comments and strings, with their line numbers."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], True, token.string
        elif token.type in {tokenize.COMMENT, tokenize.STRING, _MIDDLE}:
            for number, line in enumerate(token.string.splitlines(), token.start[0]):
                yield number, False, line


_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)
"""From Python 3.12 the text of an f-string is tokens of its own."""


def _lines(text: str) -> Iterator[tuple[int, bool, str]]:
    """Yield the lines of a document without the rows of the table."""
    for number, line in enumerate(text.splitlines(), 1):
        if not ROW.fullmatch(line):
            yield number, False, line


def main() -> int:
    """Print the findings; return 1 if there are any."""
    banned = banned_words((ROOT / GLOSSARY).read_text("utf-8"))
    if not banned:
        print(f"{GLOSSARY} has no table of banned words.")
        return 1
    paths = sorted(path for pattern in CHECKED for path in ROOT.glob(pattern))
    found = [
        finding
        for path in paths
        for finding in find(str(path.relative_to(ROOT)), path.read_text("utf-8"), banned)
    ]
    print(*found or [f"{len(paths)} files, no banned words"], sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
