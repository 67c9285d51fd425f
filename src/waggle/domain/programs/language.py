# SPDX-License-Identifier: Apache-2.0
"""Languages, as models name them, and what runs them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from waggle.domain.errors import InvalidRuntime
from waggle.domain.programs.runtime import RuntimeName

_TYPESCRIPT = frozenset({"ts", "typescript"})


@dataclass(frozen=True, slots=True)
class Language:
    """A language by the runtime that has its interpreter.

    `extension` is that of its files where the runtime's own will not do: node reads types in .ts.
    Where leaving types out is not enough to run the code, it is `compiled`.
    """

    runtime: RuntimeName
    extension: str | None = None
    compiled: bool = False


def parse_language(text: str) -> Language:
    """The language called `text`, such as py, JavaScript, ts or bash. Raises InvalidRuntime."""
    try:
        runtime = RuntimeName.parse(text)
    except InvalidRuntime:
        raise InvalidRuntime(
            f"{text[:40]!r} is no language that runs here.",
            hint='Use python, node or shell; with "shell" any program of the environment runs.',
        ) from None
    return Language(runtime.language, ".ts" if text.strip().lower() in _TYPESCRIPT else None)


def known_language(tag: str) -> Language | None:
    """The language of a Markdown tag or a first line; None when it is none of ours."""
    try:
        return parse_language(tag) if tag else None
    except InvalidRuntime:
        return None
