# SPDX-License-Identifier: Apache-2.0
"""What stands around a program that was copied from somewhere, and goes. Pure.

A Markdown fence and its tag, the prompts of a session and what it printed, a mark of byte order,
an indentation of everything. Each only where it cannot be a part of the program. Used by
`domain.program`.
"""

from __future__ import annotations

import re
import textwrap
from typing import Final

from waggle.domain.errors import InvalidArgument

_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})[ \t]*([A-Za-z0-9+#._-]*)[^\n`]*(?:\n|\Z)")
_IN_ONE_LINE: Final = re.compile(r"\s*```(?:([A-Za-z0-9+#._-]+)[ \t]+(?=\S))?([^`\n]+)```\s*")
_FENCE_LINE: Final = re.compile(r"(?m)^(?:`{3,}|~{3,})[ \t]*(?:[A-Za-z0-9+#._-]+[ \t]*)?\r?$")
_SESSION: Final = re.compile(r"\s*(?:\(\w+\) )?(?:[\w.-]+@[\w.-]+:\S*)?\$ [A-Za-z./~]")
_PROMPT: Final = re.compile(r"^(?:\(\w+\) )?(?:[\w.-]+@[\w.-]+:\S*)?\$ (.*)$")
_PYTHON_PROMPT: Final = re.compile(r"^\s*(?:>>>|\.\.\.)(?: (.*))?$")
_NO_PROSE: Final = re.compile(r"[`\"]|(?<!\w)'|'(?!\w)|<<")
"""What may have begun before a fence and have it inside; the apostrophe of "here's" is none."""
_LONGEST_LINE: Final = 4_000
_SEVERAL: Final = "Send one program alone, without Markdown."


def unfenced(code: str) -> tuple[str, str]:
    """Code without the fence around all of it, and that fence's tag.

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
    """Code without a fence at its end alone. Raises InvalidArgument for prose before a block."""
    first = _FENCE_LINE.search(code)
    if first is None or _NO_PROSE.search(code, 0, first.start()):
        return code
    if not code[first.end() :].strip():
        return code[: first.start()]
    raise InvalidArgument("The code has text before a fenced block.", hint=_SEVERAL)


def is_session(code: str) -> bool:
    """Whether it begins with a shell's prompt, which no language has."""
    return _SESSION.match(code) is not None


def commands(code: str) -> str:
    """What was typed in a shell's session: what follows its prompts, and lines that go on."""
    typed: list[str] = []
    goes_on = False
    for line in code.splitlines():
        match = _PROMPT.match(line.strip())
        if match or goes_on:
            text = match[1] if match else line.removeprefix("> ")
            typed.append(text)
            goes_on = text.endswith("\\")
    return "".join(f"{line}\n" for line in typed)


def python_lines(code: str) -> str:
    """Python as it was typed: without the prompts of a session, or an indentation of all of it."""
    lines = code.splitlines()
    first = next((line for line in lines if line.strip() and line.strip()[0] != "#"), "")
    if re.match(r"\s*>>>(?: |$)", first):
        typed = (_PYTHON_PROMPT.match(line) for line in lines)
        return "".join(f"{match[1] or ''}\n" for match in typed if match)
    return textwrap.dedent(code) if first[:1] in (" ", "\t") else code
