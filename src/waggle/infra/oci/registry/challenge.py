# SPDX-License-Identifier: Apache-2.0
"""What a registry's WWW-Authenticate headers ask for. Pure; called by `auth`.

Reads RFC 9110 challenges, several in one header or in several. Registries are hostile here: all is
bounded and what cannot be read is left out, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEADER = 8192
_MAX_SCOPE = 1024

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_WORD})(?=[\s,]|\Z)")
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|\Z))")
_GAP = re.compile(r"[\s,]*")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants a user name and a password with each request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token that the service at the URL `realm` gives."""

    realm: str
    service: str = ""
    scope: str = ""


Parameters = dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[tuple[str, Parameters]]:
    """Return (scheme, parameters) in order, names in lower case. What is malformed ends a header.

    Of a parameter that is there twice the first counts.
    """
    found: list[tuple[str, Parameters]] = []
    for header in headers:
        if len(header) <= MAX_HEADER:
            found += _one_header(header)
    return found


def _one_header(text: str) -> list[tuple[str, Parameters]]:
    found: list[tuple[str, Parameters]] = []
    at = _skip_gap(text, 0)
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found[-1][1].setdefault(name.lower(), value)
            at = _skip_gap(text, parameter.end())
            continue
        scheme = _SCHEME.match(text, at)
        if not scheme:
            break
        found.append((scheme[1].lower(), {}))
        at = _skip_gap(text, scheme.end())
        if "," not in text[scheme.end() : at] and not _PARAMETER.match(text, at):
            token = _TOKEN68.match(text, at)
            at = _skip_gap(text, token.end()) if token else at
    return found


def _skip_gap(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def choose(headers: Iterable[str]) -> Bearer | Basic | None:
    """Pick what we can answer: a token service first, else a password; None when there is none."""
    basic: Basic | None = None
    for scheme, parameters in parse_challenges(headers):
        if scheme == "bearer" and _usable(parameters):
            return Bearer(
                parameters["realm"], parameters.get("service", ""), parameters.get("scope", "")
            )
        if scheme == "basic":
            basic = Basic()
    return basic


def _usable(parameters: Parameters) -> bool:
    return (
        bool(parameters.get("realm"))
        and len(parameters.get("scope", "")) <= _MAX_SCOPE
        and all(_PRINTABLE.fullmatch(value) for value in parameters.values())
    )
