# SPDX-License-Identifier: Apache-2.0
"""Read the packages that a model asks for: plain names, or the command that installs them. Pure.

Reads `pip install x`, `npm i x`, `apt-get update && apt-get install -y x`, lists in text, quotes
and `numpy >= 2`; no word of a command is ever taken for a package. Text that is more than names,
such as `-r requirements.txt`, is refused with the way to do it. `domain.programs.runtime` checks
the names. Used by `waggle.service.programs.execution`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from waggle.domain.errors import InvalidArgument

MAX_TEXT = 64_000
"""Characters of all packages together."""
_MAX_QUOTED = 200
_MAX_PREFIXES = 4


class Installer(StrEnum):
    """The package manager of a command."""

    PIP = "pip"
    NPM = "npm"
    SYSTEM = "apt-get"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Requested names, not yet checked; `installer` is None for plain names.

    With `upgrade`, installed packages are replaced by their newest versions.
    """

    names: tuple[str, ...]
    installer: Installer | None = None
    upgrade: bool = False


_PIP = r"(?:pip[0-9.]*|(?:python|py)[0-9.]* -m pip|uv pip)"
_COMMANDS = (
    (Installer.PIP, re.compile(rf"(?:{_PIP} install|uv add)(?: |$)")),
    (
        Installer.NPM,
        re.compile(r"(?:npm (?:install|i|add)|(?:yarn|bun) add|pnpm (?:add|i|install))(?: |$)"),
    ),
    (
        Installer.SYSTEM,
        re.compile(r"(?:(?:apt|apt-get|aptitude) (?:-\S+ )*install|apk (?:-\S+ )*add)(?: |$)"),
    ),
)
_UPDATE = re.compile(r"(?:apt|apt-get|aptitude|apk) (?:-\S+ )*update(?: -\S+)*")
_BEFORE = re.compile(r"[$!%] ?|sudo (?:-[A-Za-z]+ )*|DEBIAN_FRONTEND=\S* ")
_SEPARATOR = re.compile(
    r" ?&& ?|\n|; ?(?=(?:sudo|pip[0-9.]*|python[0-9.]*|uv|npm|yarn|pnpm|bun|apt|apt-get|apk) )"
)
_VERBS = frozenset({"install", "add", "uninstall", "remove"})
_OTHER = re.compile(
    r"(?:pip[0-9.]*|npm|npx|pnpm|yarn|bun|uv|apt|apt-get|apk|conda|mamba|poetry) "
    r"(?:ci|list|freeze|show|download|update|upgrade|init|run|exec|search|sync|check|config|cache)"
    r"(?: |$)"
)
_HARMLESS = {
    Installer.PIP: re.compile(
        r"-[qvy]+|--(?:quiet|yes|verbose|user|system|no-input|no-cache(?:-dir)?"
        r"|disable-pip-version-check|break-system-packages|root-user-action=ignore)|-U|--upgrade"
    ),
    Installer.NPM: re.compile(
        r"-[ysSDPg]|--(?:yes|silent|quiet|save|save-dev|save-prod|global|dev)"
        r"|--no-(?:audit|fund|progress)"
    ),
    Installer.SYSTEM: re.compile(
        r"-[yqU]+|--(?:yes|assume-yes|quiet|quiet=2|no-install-recommends|no-cache|update)"
    ),
}
"""Options that change nothing here, and pip's for an upgrade."""
_UPGRADE = frozenset({"-U", "--upgrade"})
_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~).*$")
_BULLET = re.compile(r"(?m)^[ \t]*(?:[-*\u2022]|[0-9]{1,2}\.)[ \t]+(?=[A-Za-z@])")
_NO_NAMES = frozenset({"and", "or", "import", "from", "the", "with", "latest", "version"})
"""Words of sentences and programs that also are packages, which are never meant."""
_ONLY_VERSION = re.compile(r"v?[0-9]+(?:\.[0-9]+)+|[<>=!~^].*|\(.*|[0-9]?>.*")
_QUOTES = re.compile(r"([\"'`])([^\"'`\n]*)\1")
_COMPARISON = re.compile(r"(?<=[\w\]),]) *(===|==|~=|!=|<=|>=|<|>) *(?=[\w.])")
_MORE = re.compile(r", ?(?=[<>=!~])")
_PARTS = re.compile(r"(?:[^ \n,\[\]]|,(?=[<>=!~]))+|[ \n,\[\]]")


def read_packages(given: str | Sequence[str]) -> Wanted:
    """Return the requested names. Raises InvalidArgument, with the next step."""
    lines = [given] if isinstance(given, str) else [*given]
    if sum(map(len, lines)) > MAX_TEXT:
        raise InvalidArgument(
            "The text is too long to be names of packages.", hint="Install them in several calls."
        )
    text = _plain(" ".join(lines) if _is_command(lines) else "\n".join(lines))
    segments = [part.strip() for part in _SEPARATOR.split(text) if part.strip()]
    commands = [_without_prefix(part) for part in segments]
    read = [_command(command) for command in commands]
    if not any(read):
        alone = len(segments) == 1
        if "&&" in text or not (alone or _VERBS.isdisjoint(segments)):
            _refuse(text)
        return Wanted(tuple(name for part in segments for name in _names(part, text)))
    found = [wanted for wanted in read if wanted]
    installers = {wanted.installer for wanted in found if wanted.installer}
    if len(found) < len(read):
        _refuse(text, can_run="\n" not in text)
    if len(installers) != 1:
        _refuse(text)
    return Wanted(
        tuple(name for wanted in found for name in wanted.names),
        installers.pop(),
        upgrade=any(wanted.upgrade for wanted in found),
    )


def _plain(text: str) -> str:
    """Return one line a command, without Markdown, quotes, comments, brackets and extra spaces."""
    text = text.replace("\\\n", " ").replace("\r", "")
    text = _BULLET.sub("", _FENCE.sub("", text))
    text = re.sub(r"(?m)(?:^|(?<=[ \t]))#.*$", "", text)
    text = _QUOTES.sub(r"\2", text)
    text = re.sub(r"[ \t\v\f]+", " ", text).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    text = re.sub(r" ?\n ?", "\n", text)
    return _MORE.sub(",", _COMPARISON.sub(r"\1", text))


def _is_command(lines: Sequence[str]) -> bool:
    """Whether a list is the words of one command, as in ["pip", "install", "x"]."""
    words = [line.strip() for line in lines]
    command = _without_prefix(" ".join(words[:8]) + " x")
    return not any(" " in word for word in words) and _command(command) is not None


def _without_prefix(text: str) -> str:
    for _ in range(_MAX_PREFIXES):
        text = _BEFORE.sub("", text, count=1) if _BEFORE.match(text) else text
    return text


def _command(text: str) -> Wanted | None:
    """Return what a command installs; None for any other text.

    Raises InvalidArgument for its options.
    """
    if _UPDATE.fullmatch(text):
        return Wanted(())
    matches = ((installer, pattern.match(text)) for installer, pattern in _COMMANDS)
    installer, match = next((pair for pair in matches if pair[1]), (None, None))
    if installer is None or match is None:
        return None
    words = _split(text[match.end() :])
    options = [word for word in words if word.startswith("-")]
    names = tuple(word for word in words if not word.startswith("-"))
    if any(map(_ONLY_VERSION.fullmatch, names)):
        _refuse(text)
    if not names or not all(map(_HARMLESS[installer].fullmatch, options)):
        _refuse(text)
    upgrade = installer is Installer.PIP and bool(_UPGRADE.intersection(options))
    return Wanted(names, installer, upgrade)


def _names(text: str, whole: str) -> list[str]:
    words = _split(text)
    if len(words) > 1 and words[0] == "install":
        words = words[1:]
    if any(word.startswith("-") for word in words):
        _refuse(whole, can_run=False)
    if len(words) > 1 and (_VERBS.intersection(words) or _OTHER.match(text)):
        _refuse(whole)
    prose = _NO_NAMES.intersection(words) or any(map(_ONLY_VERSION.fullmatch, words))
    if len(words) > 1 and prose:
        _refuse(whole, can_run=False)
    return words


def _split(text: str) -> list[str]:
    """Split into words; a comma ends one, unless in brackets or before another version."""
    words, word, depth = list[str](), "", 0
    for part in _PARTS.findall(text):
        depth = max(0, depth + (part == "[") - (part == "]"))
        if part in {" ", "\n", ","} and not depth:
            words.append(word)
            word = ""
        elif part != " ":
            word += part
    return list(filter(None, (*words, word)))


def _refuse(text: str, *, can_run: bool = True) -> NoReturn:
    line = text.replace("\n", " && ")
    hint = 'Give names only, such as "numpy pandas==2.*"'
    if can_run and line.isprintable() and len(line) <= _MAX_QUOTED and '"' not in line:
        root = ', user "root"' if re.match(r"(?:sudo )?(?:apt|apk)", line) else ""
        hint += f', or run the command itself: execute with language "shell"{root}, code "{line}"'
    raise InvalidArgument(f"{text[:80]!r} is more than names of packages.", hint=f"{hint}.")


def installer_of(runtime: str) -> Installer:
    """Return the installer of a runtime, given by its name."""
    return {"node": Installer.NPM, "shell": Installer.SYSTEM}.get(runtime, Installer.PIP)


def as_command(name: str, installer: Installer) -> str:
    """Return a shell command for what is no plain name, such as a URL; empty if there is none."""
    is_plain = name.isprintable() and not re.search(r"[\s\"'`$;&|<>\\(){}]", name)
    return f"{installer} install {name}" if is_plain and len(name) <= _MAX_QUOTED else ""
