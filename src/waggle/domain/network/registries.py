# SPDX-License-Identifier: Apache-2.0
"""The registries that an image's package managers are configured for: what @packages stands for.

Pure. The guest answers questions (`service.local.registries` asks them), and its text is hostile:
only names become rules, never addresses, which would open what is not public.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from waggle.domain.errors import InvalidArgument
from waggle.domain.network.rules import WEB_PORTS, Action, Rule, parse_rule

MAX_REGISTRIES: Final = 32
MAX_ANSWER: Final = 64 << 10
"""Characters of an answer that are read."""
UNANSWERED: Final = "?"
"""Among the registries of an environment: a tool of its did not answer. It is no rule."""
_URL: Final = re.compile(r"""(?i)https?://[^\s'"\\,|)>#?]{1,300}""")
_WEB: Final = {"http": 80, "https": 443}


class Registries(NamedTuple):
    """What a guest answered. `is_complete` means that no tool was too slow to answer."""

    rules: tuple[Rule, ...]
    is_complete: bool


def parse_registries(answer: str) -> tuple[Rule, ...]:
    """Return rules for the hosts of all URLs in a text, at most MAX_REGISTRIES, without repeats.

    Only names, and only ports 80 and 443: the URL's own, else its scheme's.
    """
    found: dict[Rule, None] = {}
    for match in _URL.finditer(answer[:MAX_ANSWER]):
        if (rule := _of_url(match[0])) is not None:
            found[rule] = None
            if len(found) == MAX_REGISTRIES:
                break
    return tuple(found)


def _of_url(url: str) -> Rule | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _WEB[parts.scheme]
        return next(_rules([f"{host}:{port}"]), None)
    except ValueError:
        return None


def registry_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules that a record or a snapshot holds as texts, without those that cannot be."""
    rules = dict.fromkeys(_rules(texts))
    return tuple(rules)[:MAX_REGISTRIES]


def _rules(texts: Iterable[str]) -> Iterator[Rule]:
    for text in texts:
        try:
            rule = parse_rule(text)
        except InvalidArgument:
            continue
        is_plain = rule.action is Action.ALLOW and not rule.needs_http and rule.block is None
        is_web = rule.ports in [(ports,) for ports in WEB_PORTS]
        if is_plain and is_web and not rule.name.startswith("*"):
            yield rule
