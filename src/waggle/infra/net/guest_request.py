# SPDX-License-Identifier: Apache-2.0
"""A guest's request to the proxy: its target, the proxy's own refusals, and the proxy's limits.

Parsing is syntax only and resolves nothing: a strange spelling of an address (`0x7f.1`) passes as a
name on purpose, since the resolver's result is judged as an address later. `Home` connects a
guest's requests for itself in the guest, never on the host's loopback: no NO_PROXY grammar keeps
them from the proxy in all programs (Node.js knows no ranges, httpx breaks on `[::1]`, urllib needs
it). Refusals are read by people and agents in the guest, so they name the setting to change, and
never an address that a name resolved to. Must not know SSH.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from waggle.domain.machine import MAX_PORT
from waggle.domain.network import Network
from waggle.domain.network.decisions import LIMITS, Decision, next_step
from waggle.infra.net import Stream
from waggle.infra.net.exposure import Openings, Streams
from waggle.infra.net.policy import Address

MAX_NAME = 253
HTTP_PORT = 80
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{0,5}))?")
_HTTP_URL = re.compile(r"(?i:http)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)")


_OTHERWISE = frozenset(
    b"x-http-method x-http-method-override x-method-override x-original-method x-original-uri "
    b"x-original-url x-rewrite-url".split()
)


def is_unclear(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether frameworks may take a request for another than its first line says."""
    return any(name.lower().replace(b"_", b"-") in _OTHERWISE for name, _ in headers)


class BadTarget(ValueError):
    """The text is not a target. The message is for people and repeats none of the text."""


@dataclass(frozen=True, slots=True)
class Target:
    """A place to connect to. `host` is a lower-case ASCII name or an address without brackets."""

    host: str
    port: int
    address: Address | None
    """Set if `host` is a plain address, which needs no resolver."""

    @property
    def name(self) -> str:
        """The host as rules compare it, without a dot at the end."""
        return self.host.removesuffix(".")

    def authority(self) -> str:
        """Return `host:port`, or `host` if the port is 80: a valid value for a Host header."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == HTTP_PORT else f"{host}:{self.port}"


def parse_authority(text: str, default_port: int | None = None) -> Target:
    """Parse `host:port`; the port may be left out if there is a default. Raises BadTarget."""
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
    """Parse an absolute `http` URL into its target and its path with the query.

    Raises BadTarget, also for every other scheme.
    """
    match = _HTTP_URL.fullmatch(text)
    if match is None:
        raise BadTarget("this is a proxy: it takes CONNECT host:port and http:// URLs")
    rest = match["rest"]
    path = rest if rest.startswith("/") else f"/{rest}"
    return parse_authority(match["authority"], HTTP_PORT), path


LOOPBACKS: Final = ("127.0.0.1", "::1")
_MOST_LATE: Final = 64

ConnectHome = Callable[[int, Sequence[str]], Awaitable[Streams]]
"""Connects to a port of the guest, on the first of its own addresses that answers."""


class Home:
    """The way back into one guest, whose own name is `hostname`. The owner calls `aclose`."""

    def __init__(self, connect: ConnectHome, hostname: str) -> None:
        self._connect = connect
        self._hostname = hostname.lower()
        self._openings = Openings(_MOST_LATE)

    def addresses(self, target: Target) -> Sequence[str]:
        """Return the guest's own addresses that the target means; none if it means another host."""
        if target.address is not None:
            return _own(target.address)
        name = target.host.removesuffix(".")
        is_own = name in ("localhost", self._hostname) or name.endswith(".localhost")
        return LOOPBACKS if is_own else ()

    async def open(self, addresses: Sequence[str], port: int, seconds: float) -> Stream | None:
        """Return a stream to the guest's port, or None if nothing answers there in time."""
        return await self._openings.open(partial(self._connect, port, addresses), seconds)

    async def aclose(self) -> None:
        """Give up the late connections. Idempotent."""
        await self._openings.aclose()


def _own(address: Address) -> Sequence[str]:
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_unspecified:
        return LOOPBACKS
    return (str(address),) if address.is_loopback else ()


DENIED_HEADER = b"X-Waggle-Denied"
ERROR_HEADER = b"X-Waggle-Error"


class Refusal(Exception):
    """An answer from the proxy itself. `code` goes into a header, `text` into the body."""

    def __init__(self, status: int, code: str, text: str, *, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.reason = reason
        """Set if a rule or a limit denied the request, which is a decision then."""

    @property
    def header(self) -> tuple[bytes, bytes]:
        """X-Waggle-Denied if a rule denied the request, X-Waggle-Error if it failed."""
        name = DENIED_HEADER if self.reason else ERROR_HEADER
        return name, self.code.encode("ascii")


def printable(text: str) -> str:
    """Cut `text` to 253 characters, and replace everything but visible ASCII by `?`."""
    return "".join(c if "!" <= c <= "~" else "?" for c in text[:MAX_NAME])


def denied(decision: Decision, network: Network) -> Refusal:
    """403: a rule or the kind of address denies the target."""
    text = f"waggle: {decision.sentence} {next_step(decision, network)}"
    return Refusal(403, decision.code, text, reason=decision.reason)


def malformed(problem: str, status: int = 400) -> Refusal:
    """400 and similar: the request itself is wrong."""
    return Refusal(status, "malformed", f"waggle: bad proxy request: {problem}.")


def unresolvable(host: str) -> Refusal:
    """502: the name has no address."""
    text = f"waggle: {printable(host)} cannot be resolved: check the name."
    return Refusal(502, "unresolvable", text)


def unanswered(host: str) -> Refusal:
    """504: no name server answers whether the name has an address."""
    text = f"waggle: {printable(host)}: no name server answers for this name; try again."
    return Refusal(504, "unanswered", text)


def unreachable(host: str, port: int) -> Refusal:
    """502: no address of the host accepted the connection."""
    text = f"waggle: {printable(host)} does not accept connections on port {port}."
    return Refusal(502, "connect-failed", text)


def too_slow(host: str, step: str) -> Refusal:
    """504: `step` took too long."""
    return Refusal(504, "timeout", f"waggle: {printable(host)}: {step} took too long; try again.")


def upstream_broken(host: str) -> Refusal:
    """502: the server's answer is not HTTP, or the server hung up before answering."""
    text = f"waggle: {printable(host)} did not give a valid HTTP answer."
    return Refusal(502, "bad-answer", text)


def too_many_names(burst: int, per_second: int) -> Refusal:
    """429: the environment looks up new names faster than it may."""
    return limited(
        "too-many-names",
        f"this environment looks up too many new names; {burst} at once and then {per_second} a "
        "second are possible",
    )


def limited(code: str, reason: str) -> Refusal:
    """429: a limit of the environment or of its owner is reached."""
    text = f"waggle: no network now: {reason}. {LIMITS[code]}"
    return Refusal(429, code, text, reason=reason)


def too_many(limit: int) -> Refusal:
    """503: the environment has as many connections as it may have."""
    text = (
        f"waggle: this environment has {limit} connections open, the most it may "
        "(WAGGLE_EGRESS_MAX_CONNECTIONS); close some."
    )
    return Refusal(503, "too-many-connections", text)


@dataclass(frozen=True, slots=True)
class DialTimes:
    """Limits in seconds for opening a connection to a server."""

    dns: float = 30.0
    """Limit for a name, with its wait for a turn; `lookups.Patience` bounds the lookup itself."""
    connect: float = 10.0
    """Limit for all attempts together."""
    stagger: float = 0.3
    """Head start of an address before the next one is tried beside it."""


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """The limits of one environment's proxy, in seconds and bytes."""

    connections: int = 128
    """Connections at once; one more gets 503."""
    header_seconds: float = 30.0
    """Time for a whole request head, counted from the end of the previous request."""
    idle_seconds: float = 300.0
    """Time without a byte in either direction, and time for the first byte of an answer."""
    linger_seconds: float = 2.0
    """Time for the guest to hang up after the last answer."""
    header_bytes: int = 32 * 1024
    dial: DialTimes = field(default_factory=DialTimes)
