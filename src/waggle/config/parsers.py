# SPDX-License-Identifier: Apache-2.0
"""Fields of the settings: parsers of a variable's text, types made of them, and the sections' base.

Used by the sections in `waggle.config`. Pure: no environment, no files. A parser raises ValueError;
its text is not shown, since the type's `Accepts` describes the accepted values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from waggle.domain.errors import InvalidArgument
from waggle.domain.machine import MAX_PORT
from waggle.domain.network import Network, recorded_network
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.toolset import Toolset, toolsets_of

_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?(?:([0-9]{1,7})ms)?")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*"
)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


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
    """Read `90s`, `5m`, `1h30m`, `250ms`: units in this order, each at most once, above zero."""
    match = _DURATION.fullmatch(value)
    numbers = match.groups(default="0") if match else ()
    total = sum(int(number) * unit for number, unit in zip(numbers, _UNITS.values(), strict=False))
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
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("not a host")
    if re.fullmatch(r"[0-9.]+", host):
        host = str(ip_address(host))
    return ListenAddress(host.lower(), int(port))


def split_words(value: str) -> tuple[str, ...]:
    """Split at commas, ignoring spaces around them. An empty text is an empty list."""
    words = [word.strip() for word in value.split(",")] if value.strip() else []
    if not all(words):
        raise ValueError("an empty word between commas")
    return tuple(words)


def parse_cidrs(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read a list of networks. Host bits must be zero, so that a slip does not widen the list."""
    return tuple(ip_network(word) for word in split_words(value))


def parse_ports(value: str) -> tuple[int, ...]:
    """Read a list of TCP ports, at least one."""
    words = split_words(value)
    if not words or not all(re.fullmatch(r"[0-9]{1,5}", word) for word in words):
        raise ValueError("not a list of ports")
    ports = tuple(int(word) for word in words)
    if not all(1 <= port <= MAX_PORT for port in ports):
        raise ValueError("not a port")
    return ports


def parse_toolsets(value: str) -> frozenset[Toolset]:
    """Read names of toolsets separated by commas or spaces; `full` and `all` mean all of them."""
    try:
        return toolsets_of(split_words(value))
    except InvalidArgument as error:
        raise ValueError(error.message) from error


def parse_warm_pool(value: str) -> tuple[tuple[RuntimeName, int], ...]:
    """Read `python:2,node:1`: a runtime at most once, every number above zero."""
    pairs = [word.partition(":") for word in split_words(value.lower())]
    if not all(re.fullmatch(r"[1-9][0-9]{0,3}", number) for _, _, number in pairs):
        raise ValueError("not a number of machines")
    counts = {RuntimeName(name): int(number) for name, _, number in pairs}
    if len(counts) != len(pairs):
        raise ValueError("a runtime twice")
    return tuple(counts.items())


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


def all_matching(pattern: re.Pattern[str]) -> BeforeValidator:
    """Return a validator of a list of texts that must all match all of `pattern`."""

    def check(value: str) -> tuple[str, ...]:
        words = split_words(value)
        if not all(pattern.fullmatch(word) for word in words):
            raise ValueError("does not match")
        return words

    return parsed_by(check)


lower = parsed_by(str.lower)
"""Converts to lower case, for enumerations that ignore case."""
Duration = Annotated[
    timedelta,
    parsed_by(parse_duration),
    Accepts("a duration such as 250ms, 90s, 5m or 1h30m"),
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
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    parsed_by(parse_cidrs),
    Accepts("networks separated by commas, such as 10.1.0.0/16,fd00::/8 (host bits zero)"),
]
NetworkValue = Annotated[
    Network,
    parsed_by(recorded_network),
    Accepts("none, public, ask, or rules such as example.org:443, separated by commas"),
]
Ports = Annotated[tuple[int, ...], parsed_by(parse_ports), Accepts("TCP ports separated by commas")]
AbsolutePath = Annotated[Path, parsed_by(parse_absolute_path), Accepts("an absolute path")]
OptionalPath = Annotated[
    Path | None, parsed_by(parse_optional_path), Accepts("an absolute path, or nothing")
]
Hosts = Annotated[
    tuple[str, ...],
    all_matching(re.compile(r"[A-Za-z0-9.\[\]:*-]+")),
    Accepts("host names or addresses, each with an optional :port or :*, separated by commas"),
]
Origins = Annotated[
    tuple[str, ...],
    all_matching(_ORIGIN),
    Accepts("origins such as https://agents.example, separated by commas"),
]
Program = Annotated[
    str, matching(re.compile(r"[!-~]{1,255}")), Accepts("a program on PATH, or its absolute path")
]
Programs = Annotated[
    tuple[str, ...],
    all_matching(re.compile(r"[!-+\--~]{1,255}")),
    Accepts("programs on PATH, or their absolute paths, separated by commas"),
]
WarmPoolSizes = Annotated[
    tuple[tuple[RuntimeName, int], ...],
    parsed_by(parse_warm_pool),
    Accepts(f"runtimes ({', '.join(RuntimeName)}) and numbers of machines, as in python:2,node:1"),
]
Toolsets = Annotated[
    frozenset[Toolset],
    parsed_by(parse_toolsets),
    Accepts(f"`full`, or some of {', '.join(Toolset)}, separated by commas"),
]
OptionalToolsets = Annotated[
    frozenset[Toolset] | None,
    parsed_by(lambda value: parse_toolsets(value) if value else None),
    Accepts(f"`full`, or some of {', '.join(Toolset)}, separated by commas, or nothing"),
]
Whole = Annotated[int, parsed_by(parse_whole)]


def setting(default: str, description: str, *, ge: int | None = None, le: int | None = None) -> Any:
    """Describe one variable. `default` is parsed like an operator's text."""
    return Field(default, description=description, validate_default=True, ge=ge, le=le)


class Section(BaseModel):
    """Base of the sections: values never change after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
