# SPDX-License-Identifier: Apache-2.0
"""Recover the program that a model meant from the text that it wrote. Pure.

Markdown fences, prompts, byte order marks and a common indentation are removed, each only where it
cannot be part of the program. A fence's tag, a `#!` line or a first line that no other language can
begin with names the language. Shell lines lose their carriage returns; notebook lines become Python
(`notebook`). Everything else stays as it is. Used by `waggle.service.programs.execution`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace
from typing import Final

from waggle.domain.errors import InvalidArgument, InvalidRuntime
from waggle.domain.programs.notebook import NotebookOnly, cell_language, translated
from waggle.domain.programs.runtime import RuntimeName

_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})[ \t]*([A-Za-z0-9+#._-]*)[^\n`]*(?:\n|\Z)")
_IN_ONE_LINE: Final = re.compile(r"\s*```(?:([A-Za-z0-9+#._-]+)[ \t]+(?=\S))?([^`\n]+)```\s*")
_FENCE_LINE: Final = re.compile(r"(?m)^(?:`{3,}|~{3,})[ \t]*(?:[A-Za-z0-9+#._-]+[ \t]*)?\r?$")
_SESSION: Final = re.compile(r"\s*(?:\(\w+\) )?(?:[\w.-]+@[\w.-]+:\S*)?\$ [A-Za-z./~]")
_PROMPT: Final = re.compile(r"^(?:\(\w+\) )?(?:[\w.-]+@[\w.-]+:\S*)?\$ (.*)$")
_PYTHON_PROMPT: Final = re.compile(r"^\s*(?:>>>|\.\.\.)(?: (.*))?$")
_NO_PROSE: Final = re.compile(r"[`\"]|(?<!\w)'|'(?!\w)|<<")
"""Signs that a fence may lie inside a string or heredoc; the apostrophe of "here's" is none."""
_LONGEST_LINE: Final = 4_000
_SEVERAL: Final = "Send one program alone, without Markdown."


def unfenced(code: str) -> tuple[str, str]:
    """Return code without the fence around all of it, and that fence's tag.

    Raises InvalidArgument for several blocks, and for text around one.
    """
    code = code.removeprefix("\ufeff")
    match = _IN_ONE_LINE.fullmatch(code) if len(code) <= _LONGEST_LINE else None
    if match:
        return match[2], match[1] or ""
    opening = _FENCE.match(code)
    if opening is None:
        return _unended(code), ""
    lines = code[opening.end() :].rstrip().split("\n")
    fences = [number for number, line in enumerate(lines) if line.strip().startswith(opening[1])]
    if fences and fences != [len(lines) - 1]:
        raise InvalidArgument(
            "The code has several fenced blocks, or text after one.", hint=_SEVERAL
        )
    return "".join(f"{line}\n" for line in (lines[:-1] if fences else lines)), opening[2]


def _unended(code: str) -> str:
    """Remove a lone fence at the end. Raises InvalidArgument for prose before a block."""
    first = _FENCE_LINE.search(code)
    if first is None or _NO_PROSE.search(code, 0, first.start()):
        return code
    if not code[first.end() :].strip():
        return code[: first.start()]
    raise InvalidArgument("The code has text before a fenced block.", hint=_SEVERAL)


def is_session(code: str) -> bool:
    """Whether the code begins with a shell's prompt, which no language has."""
    return _SESSION.match(code) is not None


def commands(code: str) -> str:
    """Return the commands of a shell session: the text after prompts, and continuation lines."""
    typed: list[str] = []
    continues = False
    for line in code.splitlines():
        match = _PROMPT.match(line.strip())
        if match or continues:
            text = match[1] if match else line.removeprefix("> ")
            typed.append(text)
            continues = text.endswith("\\")
    return "".join(f"{line}\n" for line in typed)


def python_lines(code: str) -> str:
    """Return Python without the prompts of a session, or without a common indentation."""
    lines = code.splitlines()
    first = next((line for line in lines if line.strip() and line.strip()[0] != "#"), "")
    if re.match(r"\s*>>>(?: |$)", first):
        typed = (_PYTHON_PROMPT.match(line) for line in lines)
        return "".join(f"{match[1] or ''}\n" for match in typed if match)
    return textwrap.dedent(code) if first[:1] in (" ", "\t") else code


_TYPESCRIPT = frozenset({"ts", "typescript"})


@dataclass(frozen=True, slots=True)
class Language:
    """A language by the runtime that has its interpreter.

    `extension` is set where the runtime's own does not serve: node reads types in .ts. `compiled`
    code does not run when its types are merely left out.
    """

    runtime: RuntimeName
    extension: str | None = None
    compiled: bool = False


def parse_language(text: str) -> Language:
    """Return the language called `text`, such as py, JavaScript or bash. Raises InvalidRuntime."""
    try:
        runtime = RuntimeName.parse(text)
    except InvalidRuntime:
        raise InvalidRuntime(
            f"{text[:40]!r} is no language that runs here.",
            hint='Use python, node or shell; with "shell" any program of the environment runs.',
        ) from None
    return Language(runtime.language, ".ts" if text.strip().lower() in _TYPESCRIPT else None)


def known_language(tag: str) -> Language | None:
    """Return the language of a Markdown tag or a first line; None when it is unknown."""
    try:
        return parse_language(tag) if tag else None
    except InvalidRuntime:
        return None


_LINES: Final = 50
"""The first line that is not a comment is looked for in as many lines."""

_COMMANDS: Final = (
    r"pip[0-9.]*|python[0-9.]*|uv|uvx|npm|npx|pnpm|yarn|node|apt|apt-get|apk|git|curl|wget|bash|sh"
    r"|ls|cd|cat|mkdir|touch|cp|mv|rm|chmod|chown|ln|echo|printf|which|grep|rg|find|xargs|unzip"
    r"|tar|make|cmake|gcc|cc|go|cargo|rustc|java|javac|mvn|docker|podman|conda|ps|kill|pkill|head"
    r"|tail|wc|sort|sed|awk|tee|diff|file|stat|du|df|sleep|nohup|setsid|timeout|env|sqlite3|psql"
    r"|systemctl|service|pytest|ruff|mypy|flask|uvicorn|gunicorn|jupyter|poetry|ssh|scp|rsync|ping"
    r"|dig|tree|jq|openssl|ffmpeg|pandoc|time|source"
)
_NO_OPERATOR: Final = r"(?!(?:in|is|and|or|if|not|else|for|of|instanceof|as)\b)"
_ARGUMENT: Final = rf"(?:{_NO_OPERATOR}[A-Za-z0-9]|--?[A-Za-z]|\.{{0,2}}/|[\"'~$*@])"
_SET: Final = r"(?:[A-Za-z_]\w*=(?:\"[^\"]*\"|'[^']*'|[^\s\"';|&=]*) +)*"
_SHELL: Final = re.compile(
    rf"(?:sudo +)?{_SET}(?:{_COMMANDS}) +{_ARGUMENT}.*"
    r"|export +[A-Za-z_]\w*=.*"
    r"|(?:\./|\.\./|~/)[\w.-].*|\. +[./~]*[\w-].*"
    r"|set -[a-z]+(?: -?o? *pipefail)?"
    r"|(?:for \w+ in [^:]*|while [^:]*|until [^:]*); *do\b.*|if [^:]*; *then\b.*"
    r"|\[\[? +-[a-z] +\S+ +\]\]? *(?:&&|\|\|).*"
)
_HEREDOC: Final = re.compile(
    rf"(?:{_COMMANDS}) +(?:[^\n]* )?<<-? *([\"']?)([A-Za-z_]\w*)\1(?: .*)?"
)
_BARE: Final = frozenset(
    {"ls", "pwd", "whoami", "ps", "df", "env", "printenv", "date", "uptime", "nproc", "lscpu"}
    | {"df -h", "uname -a", "free", "free -m", "free -h", "make", "pytest", "tree", "hostname"}
)
_NODE: Final = re.compile(
    r"const +[\w$\[{].*|(?:let|var) +(?:[\w$]+ += |[\[{]).*|(?:let|var) +[\w$]+;"
    r"|import +(?:[\"'{]|\* +as |[\w$]+(?: *, *\{[^}]*\})? +from +[\"']).*"
    r"|export +(?:default|const|let|function|class|async)\b.*"
    r"|(?:export +)?interface +[A-Z]\w*[^=(]*\{.*"
    r"|async +function\b.*|function +[\w$]+ *\( *[\w$\[{.].*"
    r"|console\.(?:log|error|table|info|warn)\(.*|require\( *[\"'].*|[\"']use strict[\"'];?"
)
_TYPES: Final = re.compile(
    r"(?m)^(?:export +)?(?:(?:declare +)?interface +[A-Z]\w*[^\n=(]*\{|type +[A-Z]\w*[^\n=(]*= "
    r"|(?:const|let) +\w+ *: *[\w<\[{(\"'|][^\n]* = "
    r"|(?:async +)?function +\w+ *\([^)\n]*\w\??: *\w)"
)
_COMPILED: Final = re.compile(
    r"(?m)^[ \t]*(?:export +)?(?:(?:const +)?enum +\w+ *\{|namespace +[\w.]+ *\{)"
    r"|\bconstructor *\([^)]{0,300}\b(?:public|private|protected|readonly) +\w"
    r"|^import +\w+ *= *(?:require *\(|[A-Z])"
)
_PYTHON: Final = re.compile(
    r"from +\.*[\w.]* +import +.+"
    r"|import +[\w.]+(?: +as +\w+)?(?:, *[\w.]+(?: +as +\w+)?)*;? *(?:#.*)?"
    r"|(?:async +)?def +\w+ *\(.*|class +\w+ *(?:\([^)]*\))? *: *(?:#.*)?"
    r"|for +\w+(?: *, *\w+)* +in +\w+\(.*\) *:.*|\"\"\"[^\"].*|with +\w+\(.*\) +as +\w+ *:.*"
)
_PRINT: Final = re.compile(r"print\(.*\)")
_COMMENT: Final = re.compile(r"#(?!!).*|//.*|/\*.*\*/")


def surely(code: str) -> RuntimeName | None:
    """Return the runtime of the code's language; None when it is not certain."""
    lines = code.strip().split("\n", _LINES)
    said = [line.rstrip() for line in lines[:_LINES] if not _COMMENT.fullmatch(line.strip())]
    first = next((line for line in said if line.strip()), "")
    if len(first) > _LONGEST_LINE:
        return None
    if code.strip() in _BARE or _SHELL.fullmatch(first) or _is_heredoc(first, code):
        return RuntimeName.SHELL
    if _NODE.fullmatch(first):
        return RuntimeName.NODE
    if _PYTHON.fullmatch(first) or (_PRINT.fullmatch(first) and "function print" not in code):
        return RuntimeName.PYTHON
    return None


def has_types(code: str) -> bool:
    """Whether a program in JavaScript is certainly TypeScript."""
    return _TYPES.search(code) is not None or is_compiled(code)


def is_compiled(code: str) -> bool:
    """Whether a program has TypeScript that compiles to code, such as an enum.

    Leaving types out is not enough to run it.
    """
    return _COMPILED.search(code) is not None


def _is_heredoc(line: str, code: str) -> bool:
    match = _HEREDOC.fullmatch(line)
    return bool(match and re.search(rf"(?m)^\t*{match[2]}\r?$", code))


_SHEBANG = re.compile(r"#!\s*(?:\S*/env\s+(?:-S\s+)?)?(?:\S*/)?(python|node|bash|sh|dash)[0-9.]*\b")
_NO_LANGUAGE = frozenset({"", "auto", "default", "none", "null"})
_KINDS = {
    RuntimeName.SHELL: ("shell", "commands of a shell"),
    RuntimeName.NODE: ("javascript", "JavaScript"),
    RuntimeName.PYTHON: ("python", "Python"),
}
"""The name of a language in a call, and in a sentence."""


@dataclass(frozen=True, slots=True)
class Program:
    """Code and its language; None is the environment's own."""

    code: str
    language: Language | None = None


def read_program(
    code: str,
    language: str | None,
    own: RuntimeName,
    *,
    in_context: bool = False,
) -> Program:
    """Return the program that was meant. `own` runs code whose language is not known.

    In a context, notebook lines stay as they are: its shell runs them. There, earlier code may have
    defined names: `df` is a variable then, not a command.

    Raises InvalidRuntime for a language that does not exist, and InvalidArgument, with the next
    step, for code that cannot be understood.
    """
    given = (language or "").strip().lower() not in _NO_LANGUAGE
    asked = parse_language(language) if language and given else None
    code, tag = unfenced(code)
    shebang = _SHEBANG.match(code)
    chosen = asked or known_language(tag) or known_language(shebang[1] if shebang else "")
    runtime = chosen.runtime if chosen else own.language
    if runtime is RuntimeName.PYTHON and (cell := cell_language(code)):
        code, chosen = code.lstrip().partition("\n")[2], parse_language(cell)
    elif in_context and code.strip().isidentifier():
        pass
    elif other := _other(code, runtime, asked):
        chosen = Language(other)
    runtime = chosen.runtime if chosen else own.language
    if runtime is RuntimeName.SHELL:
        code = unix_lines(commands(code) if is_session(code) else code)
    elif runtime is RuntimeName.PYTHON:
        code = python_lines(code)
        try:
            code = code if in_context else translated(code)
        except NotebookOnly as error:
            raise InvalidArgument(error.message, hint=error.hint) from None
    elif not (chosen and chosen.extension) and has_types(code):
        chosen = parse_language("typescript")
    if chosen and chosen.extension:
        chosen = replace(chosen, compiled=is_compiled(code))
    return Program(code, chosen)


def _other(code: str, runtime: RuntimeName, asked: Language | None) -> RuntimeName | None:
    """Return the language that the code certainly has, unless the runtime has it.

    An explicitly requested shell gets any code. Raises InvalidArgument where another was requested.
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


def unix_lines(text: str) -> str:
    """Remove carriage returns at line ends, which a shell takes for a part of the line."""
    return re.sub(r"\r(?=\n|\Z)", "", text)
