# SPDX-License-Identifier: Apache-2.0
"""Fields of the settings: parsers of a variable's text, types made of them, and the sections' base.

Used by the sections in `waggle.config`; `lists` has those of lists. Pure: no environment, no files.
A parser raises ValueError; its text is not shown, since the type's `Accepts` describes the accepted
values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from waggle.domain.machine import MAX_PORT

_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(
    r"(?:([0-9]{1,4})d)?(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?(?:([0-9]{1,7})ms)?"
)
HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*"
)


@dataclass(frozen=True, slots=True)
class Accepts:
    """The values that a type accepts, in words, for error lines and docs/configuration.md."""

    words: str


class ListenAddress(NamedTuple):
    """The address to listen on. `host` has no brackets; with port 0 the system chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect. A name other than localhost counts as remote."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parsed_by(parse: Callable[[str], object]) -> BeforeValidator:
    """Return a validator that parses texts with `parse`, and keeps other values."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def parse_whole(value: str) -> int:
    """Read a whole number without sign, spaces or underscores."""
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise ValueError("not a whole number")
    return int(value)


_RATE = re.compile(r"([0-9]{1,12})([KMG]?)", re.IGNORECASE)
MIN_RATE = 16 << 10
"""A rate below that is a slip: a page would take minutes."""


def parse_rate(value: str) -> int:
    """Read bytes a second, `500K`, `10M` or `1G` (of 1,024); 0 is no limit."""
    match = _RATE.fullmatch(value)
    number = int(match[1]) << 10 * " KMG".index(match[2].upper() or " ") if match else -1
    if number != 0 and number < MIN_RATE:
        raise ValueError("not a rate")
    return number


def parse_duration(value: str) -> timedelta:
    """Read `7d`, `90s`, `1h30m`, `250ms`: units in this order, each at most once, above zero."""
    match = _DURATION.fullmatch(value)
    days, *numbers = map(int, match.groups(default="0")) if match else (0,)
    parts = zip([days * 24, *numbers], (_UNITS["h"], *_UNITS.values()), strict=False)
    total = sum(number * unit for number, unit in parts)
    if not total:
        raise ValueError("not a duration")
    return timedelta(milliseconds=total)


def format_duration(value: timedelta) -> str:
    """Write a duration as `parse_duration` reads it. Whole milliseconds only."""
    left, words = round(value / timedelta(milliseconds=1)), ""
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        words += f"{count}{unit}" if count else ""
    return words or "0s"


def parse_listen_address(value: str) -> ListenAddress:
    """Read `host:port`, with an IPv6 address in brackets: `[::1]:8080`."""
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise ValueError("no port")
    if host.startswith("[") and host.endswith("]"):
        address = ip_address(host[1:-1])
        if address.version != 6:
            raise ValueError("only IPv6 addresses stand in brackets")
        return ListenAddress(str(address), int(port))
    if not HOST_NAME.fullmatch(host):
        raise ValueError("not a host")
    if re.fullmatch(r"[0-9.]+", host):
        host = str(ip_address(host))
    return ListenAddress(host.lower(), int(port))


def parse_absolute_path(value: str) -> Path:
    """Read an absolute path without looking it up or expanding `~`."""
    if not value.startswith("/") or "\0" in value:
        raise ValueError("not an absolute path")
    return Path(value)


def parse_optional_path(value: str) -> Path | None:
    """Read an absolute path, or nothing."""
    return parse_absolute_path(value) if value else None


def matching(pattern: re.Pattern[str], *, empty: bool = False) -> BeforeValidator:
    """Return a validator of a text that must match all of `pattern`."""

    def check(value: str) -> str:
        if not (empty and not value) and not pattern.fullmatch(value):
            raise ValueError("does not match")
        return value

    return parsed_by(check)


lower = parsed_by(str.lower)
"""Converts to lower case, for enumerations that ignore case."""
Duration = Annotated[
    timedelta,
    parsed_by(parse_duration),
    Accepts("a duration such as 250ms, 90s, 5m, 1h30m or 7d"),
]
Rate = Annotated[
    int,
    parsed_by(parse_rate),
    Accepts("bytes a second such as 500K, 10M or 1G, at least 16K, or 0 for no limit"),
]
Listen = Annotated[
    ListenAddress,
    parsed_by(parse_listen_address),
    Accepts("host:port, such as 127.0.0.1:8080, localhost:8080 or [::1]:8080"),
]
AbsolutePath = Annotated[Path, parsed_by(parse_absolute_path), Accepts("an absolute path")]
OptionalPath = Annotated[
    Path | None, parsed_by(parse_optional_path), Accepts("an absolute path, or nothing")
]
Program = Annotated[
    str, matching(re.compile(r"[!-~]{1,255}")), Accepts("a program on PATH, or its absolute path")
]
Whole = Annotated[int, parsed_by(parse_whole)]


def setting(default: str, description: str, *, ge: int | None = None, le: int | None = None) -> Any:
    """Describe one variable. `default` is parsed like an operator's text."""
    return Field(default, description=description, validate_default=True, ge=ge, le=le)


class Section(BaseModel):
    """Base of the sections: values never change after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
