# SPDX-License-Identifier: Apache-2.0
"""The check of Host and Origin against web pages in a browser (DNS rebinding, CSRF).

A page can make a browser call any address, and by DNS rebinding under a name that the page chose.
It cannot choose the Host header freely, nor omit Origin on a POST. So Host must be a known name of
this server, or an IP address if it does not listen on loopback; and Origin, if present, must be a
known name too, or equal to Host. Wraps the whole application; knows no MCP. `fields` and `text`
read headers for the other modules of `waggle.web`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from waggle.web.answers import problem


def fields(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by name in lower case; of a repeated header, the first."""
    return dict(reversed(list(scope["headers"])))


def text(value: bytes | None) -> str | None:
    """Return a header's value as text, decoded as servers and Starlette decode it."""
    return None if value is None else value.decode("latin-1")


MOST_REMEMBERED = 100
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """The names that requests may use; `addresses` also allows any IP address as Host."""

    names: frozenset[str]
    addresses: bool

    def refusal(self, host: str | None, origin: str | None) -> tuple[int, str] | None:
        """Return the status and reason to refuse a request with these headers, or None."""
        name = _name(f"//{host}") if host else None
        if name is None or not (name in self.names or (self.addresses and _is_address(name))):
            return 421, (
                "This Host is not served here. Use 127.0.0.1 or localhost, or have the operator "
                "allow the name."
            )
        if origin is not None and not self._origin_allowed(origin, str(host)):
            return 403, "Requests from web pages of this Origin are not served."
        return None

    def _origin_allowed(self, origin: str, host: str) -> bool:
        scheme, _, authority = origin.partition("://")
        if scheme not in ("http", "https"):
            return False
        return _name(origin) in self.names or authority.lower() == host.lower()


def host_policy(bound_to: str, allowed: Iterable[str] = ()) -> HostPolicy:
    """Return the policy of a server that listens on `bound_to` and also has the `allowed` names.

    Ports, `*` included, are ignored: they are no secret, and forwarding changes them.
    """
    names = {_name(f"//{name.removesuffix(':*')}") for name in allowed} | LOOPBACK_NAMES
    local = bound_to in LOOPBACK_NAMES
    if not local and not _is_address(bound_to):
        names.add(_name(f"//{bound_to}"))
    return HostPolicy(frozenset(name for name in names if name), addresses=not local)


def _name(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if "@" in parts.netloc or parts.path or parts.query or parts.fragment:
        return None
    return (parts.hostname or "").removesuffix(".") or None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class HostCheck:
    """ASGI middleware that applies a HostPolicy."""

    def __init__(self, app: ASGIApp, policy: HostPolicy) -> None:
        self._app = app
        self._policy = policy
        self._served: set[str] = set()
        """Up to MOST_REMEMBERED Hosts that the policy allows. The policy never changes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "http":
            headers = fields(scope)
            refusal = self._refusal(text(headers.get(b"host")), text(headers.get(b"origin")))
            if refusal is not None:
                await problem(*refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, host: str | None, origin: str | None) -> tuple[int, str] | None:
        if origin is None and host in self._served:
            return None
        refusal = self._policy.refusal(host, origin)
        if refusal is None and host is not None and len(self._served) < MOST_REMEMBERED:
            self._served.add(host)
        return refusal
