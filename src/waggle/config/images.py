# SPDX-License-Identifier: Apache-2.0
"""Parsers and types of the `WAGGLE_*` variables about registries. Pure.

See `waggle.config.parsers`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from waggle.config.parsers import Accepts, all_matching, parse_duration, split_words
from waggle.domain.errors import InvalidArgument
from waggle.domain.image import PullRule
from waggle.domain.reference import check_default_registry

_PATTERN = re.compile(r"[A-Za-z0-9._/:@*\[\]-]{1,512}")


def parse_registries(value: object) -> object:
    """Read a list of registries, written as in references: `host` or `host:port`."""
    if not isinstance(value, str):
        return value
    return frozenset(parse_registry(word) for word in split_words(value))


def parse_registry(word: str) -> str:
    """Return a registry in the spelling of references. Raises ValueError."""
    try:
        if word and "/" not in word:
            return check_default_registry(word)
    except InvalidArgument:
        pass
    raise ValueError("not a registry")


def parse_registry_mirrors(value: object) -> object:
    """Read `registry=host[:port][/path]` pairs; several of one registry keep their order."""
    if not isinstance(value, str):
        return value
    mirrors: dict[str, tuple[str, ...]] = {}
    for word in split_words(value):
        registry, equals, mirror = word.partition("=")
        name = parse_registry(registry)
        if not equals or not mirror:
            raise ValueError("no mirror")
        mirrors[name] = (*mirrors.get(name, ()), parse_default_registry(mirror))
    return mirrors


def parse_default_registry(value: str) -> str:
    """Read `host[:port][/path]`, or nothing. Raises ValueError."""
    try:
        return check_default_registry(value)
    except InvalidArgument:
        raise ValueError("not a registry") from None


def parse_pull(value: object) -> object:
    """Read `always`, `missing`, `never` or a duration."""
    if not isinstance(value, str):
        return value
    if value.lower() in {*PullRule}:
        return PullRule(value.lower())
    return parse_duration(value)


DefaultRegistry = Annotated[
    str,
    AfterValidator(parse_default_registry),
    Accepts("a registry as host[:port][/path], or nothing"),
]
Registries = Annotated[
    frozenset[str],
    BeforeValidator(parse_registries),
    Accepts("registries as host or host:port, separated by commas"),
]
RegistryMirrors = Annotated[
    dict[str, tuple[str, ...]],
    BeforeValidator(parse_registry_mirrors),
    Accepts("registry=host[:port][/path], separated by commas"),
]
ImagePatterns = Annotated[
    tuple[str, ...],
    all_matching(_PATTERN),
    Accepts("references in which * stands for text without a slash and ** for any, by commas"),
]
Pull = Annotated[
    PullRule | timedelta,
    BeforeValidator(parse_pull),
    Accepts("always, missing, never, or a duration such as 24h"),
]
