# SPDX-License-Identifier: Apache-2.0
"""What a program said of a command that it lacks. Pure.

What a program prints proves nothing: it only tells what the guest is asked (`diagnosing`), or what
is worded as said.
"""

from __future__ import annotations

import re
from typing import Final

from waggle.domain.diagnosis.commands import PACKAGE_OF
from waggle.domain.diagnosis.evidence import Evidence

_TOOLS = "apk apt-get bash curl dnf git node npm pip pip3 python3 ss sudo uv xvfb-run"
TOOLS: Final = tuple(_TOOLS.split())
"""Whether an image has these decides what it is advised."""
_LINES = 60
_NAME = r"([A-Za-z0-9_][\w.+-]{0,63})"
_QUOTE = "[\u2018\u2019'\"`]"
_MISSING = tuple(
    re.compile(pattern, re.ASCII | re.MULTILINE)
    for pattern in (
        rf"^(?:[^\n:]{{1,200}}: )?(?:line )?\d+: {_NAME}: (?:command )?not found$",
        rf"^(?:/\S*/)?(?:ba|da|a|k|z)?sh: {_NAME}: (?:command )?not found$",
        rf"^zsh:\d*:? ?command not found: {_NAME}$",
        rf"^(?:/usr/bin/)?env: {_QUOTE}{_NAME}{_QUOTE}: No such file or directory$",
        rf"^sudo: {_NAME}: command not found$",
        rf"^(?:timeout|nohup|nice|setsid|stdbuf|time|xargs|make(?:\[\d+\])?): [^\n]{{0,80}}?"
        rf"{_QUOTE}?{_NAME}{_QUOTE}?: No such file or directory$",
        rf"\berror: command {_QUOTE}(?:\S*/)?{_NAME}{_QUOTE} failed: No such file or directory",
        rf"\bspawn {_NAME} ENOENT\b",
        rf"\bexec: \"{_NAME}\": executable file not found in \$PATH",
        rf"\berror: linker `{_NAME}` not found",
    )
)
_FILE = re.compile(
    rf"\bFileNotFoundError: \[Errno 2\] No such file or directory: '{_NAME}'$",
    re.ASCII | re.MULTILINE,
)


def last_words(evidence: Evidence) -> str:
    """The end of what was said by a run that failed by itself, where its failure is named."""
    return "" if evidence.exit_code is None else _end(evidence.said)


def _end(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()[-_LINES:])


def missing_command(text: str) -> str | None:
    """The first command of which it was said that it is not there."""
    text = _end(text)
    found = [match for each in _MISSING if (match := each.search(text))]
    if found:
        return min(found, key=lambda match: match.start())[1]
    match = _FILE.search(text)
    return match[1] if match and match[1] in PACKAGE_OF else None
