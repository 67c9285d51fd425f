# SPDX-License-Identifier: Apache-2.0
"""The host and port that a guest asks for: syntax only, nothing is resolved.

Called by `egress` with what h11 parsed: `host:port` of a CONNECT, or an absolute `http` URL.
A strange spelling of an address (`0x7f.1`, `2130706433`) passes as a name on purpose: whatever
the resolver makes of it is judged as an address afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from waggle.infra.net.ranges import Address

MAX_NAME = 253
MAX_PORT = 65535
HTTP_PORT = 80
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{0,5}))?")
_HTTP_URL = re.compile(r"(?i:http)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)")


class BadTarget(ValueError):
    """The text is no target. The message is for people and repeats none of the text."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. `host` is a lower-case ASCII name, or an address without brackets."""

    host: str
    port: int
    address: Address | None
    """Set when `host` is a plain address, which then needs no resolver."""

    def authority(self) -> str:
        """`host`, or `host:port` unless that is 80; a valid value for a Host header."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == HTTP_PORT else f"{host}:{self.port}"


def parse_authority(text: str, default_port: int | None = None) -> Target:
    """`host:port`; the port may be left out if there is a default. Raises BadTarget."""
    if "@" in text:
        raise BadTarget("a user name or password in the address is not supported")
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise BadTarget("the address is not of the form host:port")
    port = int(match["port"]) if match["port"] else default_port
    if port is None or not 0 < port <= MAX_PORT:
        raise BadTarget("the port is missing or not between 1 and 65535")
    host = match["host"]
    if host.startswith("["):
        return _ipv6(host[1:-1], port)
    try:
        return Target(host, port, IPv4Address(host))
    except AddressValueError:
        return Target(_name(host), port, None)


def _ipv6(text: str, port: int) -> Target:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise BadTarget("the text in brackets is not an IPv6 address") from None
    if address.scope_id is not None:
        raise BadTarget("an IPv6 address with a zone is not supported")
    return Target(str(address), port, address)


def _name(text: str) -> str:
    labels = text.removesuffix(".").split(".")
    if len(text) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadTarget("the host name is malformed (write international names as xn--...)")
    return text.lower()


def parse_http_url(text: str) -> tuple[Target, str]:
    """An absolute `http` URL -> its target and the path with query to ask it for.

    Raises BadTarget, also for every other scheme.
    """
    match = _HTTP_URL.fullmatch(text)
    if match is None:
        raise BadTarget("this is a proxy: it takes CONNECT host:port and http:// URLs")
    rest = match["rest"]
    path = rest if rest.startswith("/") else f"/{rest}"
    return parse_authority(match["authority"], HTTP_PORT), path
