# SPDX-License-Identifier: Apache-2.0
"""What a model writes as a program, as the program that was meant. Pure.

What stands around it goes (`domain.pasted`); a fence's tag names the language where none was given,
as a first line `#!` does; a program that is surely of another language is run as what it is
(`domain.guess`); a shell's lines lose their carriage returns; lines of a notebook become Python
(`domain.notebook`). All else stays as it is. Used by `waggle.service.programs.execution`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.guess import has_types, is_compiled, surely
from waggle.domain.programs.language import Language, known_language, parse_language
from waggle.domain.programs.notebook import cell_language, translated
from waggle.domain.programs.pasted import commands, is_session, python_lines, unfenced
from waggle.domain.programs.runtime import RuntimeName

_SHEBANG = re.compile(r"#!\s*(?:\S*/env\s+(?:-S\s+)?)?(?:\S*/)?(python|node|bash|sh|dash)[0-9.]*\b")
_NO_LANGUAGE = frozenset({"", "auto", "default", "none", "null"})
_KINDS = {
    RuntimeName.SHELL: ("shell", "commands of a shell"),
    RuntimeName.NODE: ("javascript", "JavaScript"),
    RuntimeName.PYTHON: ("python", "Python"),
}
"""How a language is called in a call, and in a sentence."""


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
    given = (language or "").strip().lower() not in _NO_LANGUAGE
    asked = parse_language(language) if language and given else None
    code, tag = unfenced(code)
    chosen = asked or known_language(tag) or _of_first_line(code)
    runtime = chosen.runtime if chosen else own.language
    if runtime is RuntimeName.PYTHON and (cell := cell_language(code)):
        code, chosen = code.lstrip().partition("\n")[2], parse_language(cell)
    elif other := _other(code, runtime, asked):
        chosen = Language(other)
    runtime = chosen.runtime if chosen else own.language
    if runtime is RuntimeName.SHELL:
        code = unix_lines(commands(code) if is_session(code) else code)
    elif runtime is RuntimeName.PYTHON:
        code = translated(python_lines(code))
    elif not (chosen and chosen.extension) and has_types(code):
        chosen = parse_language("typescript")
    if chosen and chosen.extension:
        chosen = replace(chosen, compiled=is_compiled(code))
    return Program(code, chosen)


def _other(code: str, runtime: RuntimeName, asked: Language | None) -> RuntimeName | None:
    """The language that the code surely has, unless that is the runtime's.

    A shell that was asked for gets any code. Raises InvalidArgument where another one was.
    """
    found = RuntimeName.SHELL if is_session(code) else surely(code)
    if found is None or found is runtime or (asked and runtime is RuntimeName.SHELL):
        return None
    if asked:
        name, kind = _KINDS[found]
        raise InvalidArgument(
            f"The code is {kind}, not {_KINDS[runtime][1]}.",
            hint=f'Call execute with language "{name}".',
        )
    return found


def _of_first_line(code: str) -> Language | None:
    match = _SHEBANG.match(code)
    return known_language(match[1]) if match else None


def unix_lines(text: str) -> str:
    """Text for a shell, which takes a carriage return at a line's end for a part of the line."""
    return re.sub(r"\r(?=\n|\Z)", "", text)
