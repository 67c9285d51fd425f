# SPDX-License-Identifier: Apache-2.0
"""Of which language a program surely is, by its first line that says something. Pure.

Surely: no program of the other languages that does anything begins like that. What is not sure has
no answer here, and runs as what it was sent for. Used by `domain.program`.
"""

from __future__ import annotations

import re
from typing import Final

from waggle.domain.programs.runtime import RuntimeName

_LONGEST_LINE: Final = 4_000
_LINES: Final = 50
"""How far the first line that is no comment may be."""

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
    """The runtime of its language alone; None when it is not sure."""
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
    """Whether a program in JavaScript is surely one in TypeScript."""
    return _TYPES.search(code) is not None or is_compiled(code)


def is_compiled(code: str) -> bool:
    """Whether a program has what TypeScript makes code of, such as an enum.

    Leaving types out is not enough for it.
    """
    return _COMPILED.search(code) is not None


def _is_heredoc(line: str, code: str) -> bool:
    match = _HEREDOC.fullmatch(line)
    return match is not None and re.search(rf"(?m)^\t*{match[2]}\r?$", code) is not None
