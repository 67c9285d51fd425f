# SPDX-License-Identifier: Apache-2.0
"""One rule of a network: the destinations that it allows or denies, and its text. Pure.

A rule is written as one line, for clients and in the operator's file alike:

    [allow|deny] [METHOD,...] HOST[:PORTS][/PATH]

HOST is a name (`example.org`), all names below one (`*.example.org`, which is not the name itself),
`*`, an address, or a network (`10.1.0.0/16`, `[2001:db8::/32]`). PORTS is a port, a range
(`8000-8100`) or `*`. Without a port, an allowing rule means 80 and 443, a denying one every port.
METHOD and PATH need HTTP that the proxy can see; a path matches itself and what lies below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final
from urllib.parse import unquote

from waggle.domain.errors import InvalidArgument
from waggle.domain.machine import MAX_PORT

MAX_RULE: Final = 400
MAX_NAME: Final = 253
WEB_PORTS: Final = ((80, 80), (443, 443))
ALL_PORTS: Final = ((1, MAX_PORT),)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_RULE: Final = re.compile(
    r"(?:(?P<action>allow|deny)\s+)?(?:(?P<methods>[A-Z]+(?:,[A-Z]+)*)\s+)?(?P<place>\S+)"
)
_PLACE: Final = re.compile(
    r"(?P<host>\[[^\[\]]*\]|\d+\.\d+\.\d+\.\d+/\d+|[^:/\[\]]+)(?::(?P<ports>[^/]*))?(?P<path>/.*)?"
)
_PATH: Final = re.compile(r"/[!-~]*")
_ODD_ESCAPE: Final = re.compile(r"%(25)*(2e|2f|5c|3b|[01][0-9a-f]|7f)")
"""Dots, slashes, semicolons and control characters, however often they are escaped."""
HOW: Final = (
    "It is public, none, ask, or rules such as `example.org`, `*.example.org:443`, "
    "`deny ads.example.org`, `10.1.0.0/16:5432` or `GET api.example.org/v1/`."
)

Block = IPv4Network | IPv6Network
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
Ports = tuple[tuple[int, int], ...]
"""Ranges of ports, both ends included."""


class Action(StrEnum):
    """What a rule does with the destinations that it matches."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. Exactly one of `name` and `block` is set; `name` may begin with `*.` or be `*`."""

    action: Action
    name: str
    block: Block | None
    ports: Ports
    methods: frozenset[str] = frozenset()
    """Empty: every method."""
    path: str = ""

    @property
    def needs_http(self) -> bool:
        """Whether only a proxy that sees the HTTP request can tell that it matches."""
        return bool(self.methods or self.path)

    def has_port(self, port: int) -> bool:
        """Whether it is about this port."""
        return any(low <= port <= high for low, high in self.ports)

    def __str__(self) -> str:
        """Return the text that `parse_rule` reads, in one form for each rule."""
        words = [*(["deny"] if self.action is Action.DENY else [])]
        if self.methods:
            words.append(",".join(sorted(self.methods)))
        return " ".join([*words, f"{self._host()}{self._ports()}{self.path}"])

    def _host(self) -> str:
        if self.block is None:
            return self.name
        is_one = self.block.prefixlen == self.block.max_prefixlen
        text = str(self.block.network_address) if is_one else str(self.block)
        return text if isinstance(self.block, IPv4Network) else f"[{text}]"

    def _ports(self) -> str:
        if self.ports == usual_ports(self.action):
            return ""
        if self.ports == ALL_PORTS:
            return ":*"
        low, high = self.ports[0]
        return f":{low}" if low == high else f":{low}-{high}"


def usual_ports(action: Action) -> Ports:
    """Return the ports of a rule that names none."""
    return WEB_PORTS if action is Action.ALLOW else ALL_PORTS


def parse_rule(text: str) -> Rule:
    """Return the rule that a line says. Raises InvalidArgument, which names line and fault."""
    match = _RULE.fullmatch(" ".join(text.split())) if len(text) <= MAX_RULE else None
    place = _PLACE.fullmatch(match["place"]) if match else None
    if match is None or place is None:
        raise _bad(text, "it is not a rule")
    if "://" in text:
        raise _bad(text, "it is a URL; write its host alone")
    action = Action(match["action"] or Action.ALLOW)
    methods = frozenset((match["methods"] or "").split(",")) - {""}
    if not all(_METHOD.fullmatch(method) for method in methods):
        raise _bad(text, "a method has 1 to 20 capital letters")
    path = place["path"] or ""
    if not _PATH.fullmatch(path or "/") or "?" in path or "#" in path or is_odd(path):
        raise _bad(text, "its path has characters or parts that no request may have")
    block = _block(place["host"])
    if block is not None and path[1:2].isdigit():  # a mask, or a length that is too large
        raise _bad(text, "a network is written as 10.1.0.0/16")
    return Rule(
        action,
        "" if block is not None else _name(text, place["host"]),
        block,
        _ports(text, place["ports"], action),
        methods,
        "" if path == "/" else path,
    )


def normal_name(name: str) -> str:
    """Return a host name as rules compare it: lower case, ASCII, no dot at the end.

    Raises ValueError if it cannot be a host name.
    """
    plain = name.removesuffix(".")
    if not plain.isascii():
        plain = plain.encode("idna").decode("ascii")  # UnicodeError is a ValueError
    plain = plain.lower()
    if not plain or len(plain) > MAX_NAME:
        raise ValueError("its length")
    if not all(_LABEL.fullmatch(label) for label in plain.split(".")):
        raise ValueError("its labels")
    return plain


def is_odd(path: str) -> bool:
    r"""Whether servers may read a path in several ways, as with `..`, `//`, `%2e` or `\\`."""
    plain = path.partition("?")[0].lower()
    if "\\" in plain or "//" in plain or _ODD_ESCAPE.search(plain):
        return True
    return any(part in (".", "..") or part.startswith(("..;", ".;")) for part in plain.split("/"))


def lies_below(path: str, prefix: str) -> bool:
    """Whether a request's path is the prefix or below it."""
    plain = path.partition("?")[0]
    return plain.startswith(prefix) and (
        prefix.endswith("/") or plain[len(prefix) : len(prefix) + 1] in ("", "/")
    )


def may_lie_below(path: str, prefix: str) -> bool:
    """Whether some server may take a request's path for the prefix or below it.

    Servers undo escapes, some of them twice, drop what follows `;` and a slash at the end, and may
    not tell cases apart.
    """
    read = _as_read(path)
    return is_odd(path) or is_odd(read) or lies_below(read, _as_read(prefix).removesuffix("/"))


def _as_read(path: str) -> str:
    plain = path.partition("?")[0]
    for _ in range(2):
        plain = unquote(plain, "latin-1")
    return "/".join(_plain_part(part) for part in plain.lower().split("/"))


def _plain_part(part: str) -> str:
    name = part.partition(";")[0]
    return name.rstrip(". ") or name


def _block(host: str) -> Block | None:
    text = host[1:-1] if host.startswith("[") else host
    try:
        block = None if "%" in text else ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(block, IPv6Network) and block.subnet_of(_MAPPED):
        inside = int(block.network_address) & 0xFFFF_FFFF  # connections are judged as IPv4
        return IPv4Network((inside, block.prefixlen - 96))
    return block


def _name(text: str, host: str) -> str:
    if host == "*":
        return host
    below = host.startswith("*.")
    try:
        name = normal_name(host[2:] if below else host)
    except ValueError:
        raise _bad(text, "its host is no name, address or network") from None
    if not any(character.isalpha() for character in name):
        raise _bad(text, "its host is no name, address or network")
    if "." not in name and not below:  # more likely a misspelt word such as `pubic`
        raise _bad(text, "a name has a dot")
    return f"*.{name}" if below else name


def _ports(text: str, ports: str | None, action: Action) -> Ports:
    if ports is None:
        return usual_ports(action)
    if ports == "*":
        return ALL_PORTS
    low, dash, high = ports.partition("-")
    try:
        first, last = _port(low), _port(high) if dash else _port(low)
    except ValueError:
        first, last = 1, 0
    if first > last:
        raise _bad(text, f"a port is 1 to {MAX_PORT}, a range such as 8000-8100, or *")
    return ((first, last),)


def _port(text: str) -> int:
    if not (
        text.isascii() and text.isdigit() and 0 < len(text) <= 5 and 1 <= int(text) <= MAX_PORT
    ):
        raise ValueError(text)
    return int(text)


def _bad(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"{text[:80]!a} cannot be a network rule: {why}.", hint=HOW)
