# SPDX-License-Identifier: Apache-2.0
"""Fields of the settings that are lists: parsers of their texts, and types made of them. Pure.

Used by the sections in `waggle.config`. A parser raises WrongItem, whose text is shown: a list may
be long, and the item that is wrong the last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from typing import Annotated

from waggle.config.parsers import HOST_NAME, Accepts, parsed_by
from waggle.domain.errors import InvalidArgument
from waggle.domain.hypervisor import HypervisorName
from waggle.domain.machine import MAX_PORT
from waggle.domain.network import Network, parse_network
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.toolset import EVERYTHING, Toolset, toolsets_of

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")
_PORT = re.compile(r"[0-9]{1,5}")


class WrongItem(ValueError):
    """An item of a list is wrong; `why` goes on after the item, or is all, without one."""

    def __init__(self, item: str, why: str) -> None:
        super().__init__(f"{item} {why}".strip())
        self.item = item
        self.why = why


def split_words(value: str) -> tuple[str, ...]:
    """Split at commas, ignoring spaces around them. An empty text is an empty list."""
    words = [word.strip() for word in value.split(",")] if value.strip() else []
    if not all(words):
        raise WrongItem("", "there is a comma with nothing before or after it")
    return tuple(words)


def all_matching(pattern: re.Pattern[str], why: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of a list of texts that must all match all of `pattern`, or else `why`."""

    def check(value: str) -> tuple[str, ...]:
        words = split_words(value)
        for word in words:
            if not pattern.fullmatch(word):
                raise WrongItem(word, why)
        return words

    return check


def parse_cidrs(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read a list of networks. Host bits must be zero, so that a slip does not widen the list."""
    return tuple(_cidr(word) for word in split_words(value))


def _cidr(word: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(word)
    except ValueError:
        pass
    try:
        meant = ip_interface(word).network
    except ValueError:
        raise WrongItem(word, "is no network") from None
    raise WrongItem(word, f"is an address in the network {meant}")


def parse_ports(value: str) -> tuple[int, ...]:
    """Read a list of TCP ports, at least one."""
    words = split_words(value)
    for word in words:
        if not _PORT.fullmatch(word) or not 1 <= int(word) <= MAX_PORT:
            raise WrongItem(word, f"is no port from 1 to {MAX_PORT}")
    if not words:
        raise WrongItem("", "it has no port")
    return tuple(map(int, words))


def parse_network_setting(value: str) -> Network:
    """Read a network, as clients write it too."""
    try:
        return parse_network(value)
    except InvalidArgument as error:
        text = error.message.removesuffix(".")
        raise WrongItem("", text[:1].lower() + text[1:]) from error


def parse_hosts(value: str) -> tuple[str, ...]:
    """Read a list of names or addresses, each with an optional port, which may be `*`."""
    words = split_words(value)
    for word in words:
        if not _is_host(word):
            raise WrongItem(word, _host_fault(word))
    return words


def _is_host(word: str) -> bool:
    host, colon, port = word, "", ""
    if not word.endswith("]"):
        host, colon, port = word.rpartition(":") if ":" in word else (word, "", "")
    if colon and port != "*" and not (_PORT.fullmatch(port) and int(port) <= MAX_PORT):
        return False
    if host.startswith("["):
        return host.endswith("]") and _is_ipv6(host[1:-1])
    return HOST_NAME.fullmatch(host.removesuffix(".")) is not None


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv6Address)
    except ValueError:
        return False


def _host_fault(word: str) -> str:
    if _is_ipv6(word):
        return "is an IPv6 address without brackets"
    if "//" in word:
        return "is a URL; write its host alone"
    return "is no host with an optional port"


def parse_toolsets(value: str) -> frozenset[Toolset]:
    """Read names of toolsets separated by commas; `full` and `all` mean all of them."""
    words = split_words(value)
    for word in words:
        if word.lower() not in (*Toolset, *EVERYTHING):
            raise WrongItem(word, "is no toolset")
    try:
        return toolsets_of(words)
    except InvalidArgument as error:
        raise WrongItem("", error.message.removesuffix(".")) from error


def parse_warm_pool(value: str) -> tuple[tuple[RuntimeName, int], ...]:
    """Read `python:2,node:1`: a runtime at most once, every number above zero."""
    counts: dict[RuntimeName, int] = {}
    for word in split_words(value.lower()):
        name, _, number = word.partition(":")
        if name not in tuple(RuntimeName):
            raise WrongItem(word, "begins with no runtime")
        if not re.fullmatch(r"[1-9][0-9]{0,3}", number):
            raise WrongItem(word, "has no number of machines from 1 to 9999")
        if name in counts:
            raise WrongItem(word, "names its runtime again")
        counts[RuntimeName(name)] = int(number)
    return tuple(counts.items())


def parse_hypervisors(value: str) -> tuple[HypervisorName, ...]:
    """Read names of hypervisors, each at most once; `auto` alone is an empty list."""
    words = split_words(value.lower())
    if words == ("auto",):
        return ()
    for word in words:
        if word not in tuple(HypervisorName):
            why = "goes with no other name" if word == "auto" else "is no hypervisor"
            raise WrongItem(word, why)
        if words.count(word) > 1:
            raise WrongItem(word, "is there twice")
    if not words:
        raise WrongItem("", "it names no hypervisor")
    return tuple(map(HypervisorName, words))


Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    parsed_by(parse_cidrs),
    Accepts("networks separated by commas, such as 10.1.0.0/16,fd00::/8 (host bits zero)"),
]
NetworkValue = Annotated[
    Network,
    parsed_by(parse_network_setting),
    Accepts("none, public, ask, or rules such as example.org:443, separated by commas"),
]
Ports = Annotated[
    tuple[int, ...],
    parsed_by(parse_ports),
    Accepts("TCP ports separated by commas, such as 22,80,443"),
]
Hosts = Annotated[
    tuple[str, ...],
    parsed_by(parse_hosts),
    Accepts(
        "host names or addresses, each with an optional :port or :*, separated by commas, such as "
        "waggle.example,[fd00::1]:8443"
    ),
]
Origins = Annotated[
    tuple[str, ...],
    parsed_by(
        all_matching(_ORIGIN, "is no origin: that is http or https, a host and a port, no path")
    ),
    Accepts("origins such as https://agents.example, separated by commas"),
]
Programs = Annotated[
    tuple[str, ...],
    parsed_by(all_matching(re.compile(r"[!-+\--~]{1,255}"), "is no program's name or path")),
    Accepts(
        "programs on PATH, or their absolute paths, separated by commas, such as "
        "/opt/qemu-9/bin/qemu-system-x86_64"
    ),
]
Hypervisors = Annotated[
    tuple[HypervisorName, ...],
    parsed_by(parse_hypervisors),
    Accepts(f"`auto`, or some of {', '.join(HypervisorName)}, in order, separated by commas"),
]
WarmPoolSizes = Annotated[
    tuple[tuple[RuntimeName, int], ...],
    parsed_by(parse_warm_pool),
    Accepts(f"runtimes ({', '.join(RuntimeName)}) and numbers of machines, as in python:2,node:1"),
]
_TOOLSETS = f"`full`, or some of {', '.join(Toolset)}, separated by commas, as in core,files"
Toolsets = Annotated[frozenset[Toolset], parsed_by(parse_toolsets), Accepts(_TOOLSETS)]
OptionalToolsets = Annotated[
    frozenset[Toolset] | None,
    parsed_by(lambda value: parse_toolsets(value) if value else None),
    Accepts(f"{_TOOLSETS}, or nothing"),
]
