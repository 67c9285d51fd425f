# SPDX-License-Identifier: Apache-2.0
"""What a model writes as a program, as the program that was meant. Pure.

A Markdown fence around all of it goes, and names the language where none was given, as a first line
`#!` does; a shell's command in the place of a program is one for the shell; a shell's lines lose
their carriage returns; lines of a notebook become Python (`domain.notebook`). All else stays as it
is. Used by `waggle.service.execution`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from waggle.domain.errors import InvalidArgument
from waggle.domain.language import Language, known_language, parse_language
from waggle.domain.notebook import cell_language, translated
from waggle.domain.runtime import RuntimeName

_FENCE = re.compile(r"\s*(`{3,}|~{3,})[ \t]*([A-Za-z0-9+#._-]*)[^\n`]*(?:\n|\Z)")
_SHEBANG = re.compile(r"#!\s*(?:\S*/env\s+(?:-S\s+)?)?(?:\S*/)?(python|node|bash|sh|dash)[0-9.]*\b")
_COMMAND = re.compile(
    r"(?:sudo +)?(?:pip[0-9.]*|python[0-9.]*|uv|npm|npx|pnpm|yarn|node|apt|apt-get|apk|git|curl"
    r"|wget|bash|sh|ls|cd|cat|mkdir|touch|cp|mv|rm|chmod|echo|which|grep|find|unzip|tar|make|gcc)"
    r" +(?:[A-Za-z0-9]|--?[A-Za-z]|\.{0,2}/|[\"'~$*]).*|export +[A-Za-z_]\w*=.*"
)
_BARE = frozenset({"ls", "pwd", "whoami", "ps", "df -h", "uname -a", "free -m"})
_LONGEST_LINE = 4_000


@dataclass(frozen=True, slots=True)
class Program:
    """Code and what runs it; `language` is None for the environment's own."""

    code: str
    language: Language | None = None


def read_program(code: str, language: str | None, own: RuntimeName) -> Program:
    """The program that was meant. `own` runs code of which no language is known.

    Raises InvalidRuntime for a language that there is not, and InvalidArgument, with the next step,
    for what cannot be understood.
    """
    asked = parse_language(language) if language else None
    code, tag = _unfenced(code)
    chosen = asked or known_language(tag) or _of_first_line(code)
    runtime = chosen.runtime if chosen else own.language
    if runtime is RuntimeName.PYTHON and (cell := cell_language(code)):
        code, chosen = code.lstrip().partition("\n")[2], parse_language(cell)
    elif runtime is not RuntimeName.SHELL and is_command(code):
        if asked is not None:
            raise InvalidArgument(
                f"The code is a command of a shell, not {runtime}.",
                hint='Call execute with language "shell".',
            )
        chosen = Language(RuntimeName.SHELL)
    runtime = chosen.runtime if chosen else own.language
    if runtime is RuntimeName.SHELL:
        code = unix_lines(code)
    elif runtime is RuntimeName.PYTHON:
        code = translated(code)
    return Program(code, chosen)


def _unfenced(code: str) -> tuple[str, str]:
    """Code without the fence around all of it, and that fence's tag.

    Raises InvalidArgument for several blocks.
    """
    opening = _FENCE.match(code)
    if opening is None:
        return code, ""
    lines = code[opening.end() :].rstrip().split("\n")
    fences = [number for number, line in enumerate(lines) if line.strip().startswith(opening[1])]
    if fences and fences != [len(lines) - 1]:
        raise InvalidArgument(
            "The code has several fenced blocks, or text after one.",
            hint="Send one program alone, without Markdown.",
        )
    return "".join(f"{line}\n" for line in (lines[:-1] if fences else lines)), opening[2]


def _of_first_line(code: str) -> Language | None:
    match = _SHEBANG.match(code)
    return known_language(match[1]) if match else None


def is_command(code: str) -> bool:
    """Whether it begins with a shell's command, which neither Python nor JavaScript can."""
    text = code.strip()
    line = text.partition("\n")[0].rstrip()
    return text in _BARE or (len(line) <= _LONGEST_LINE and _COMMAND.fullmatch(line) is not None)


def unix_lines(text: str) -> str:
    """Text for a shell, which takes a carriage return at a line's end for a part of the line."""
    return re.sub(r"\r(?=\n|\Z)", "", text)
