# SPDX-License-Identifier: Apache-2.0
"""The guards of the server: the names it is called by, and the tokens of its clients.

`host_check` wraps the whole application. A page can make a browser call any address, and by DNS
rebinding under a name that the page chose; but it cannot choose the Host header freely, nor omit
Origin on a POST. `AccessCheck` wraps /mcp and /metrics and leaves the verified client in the
request's `user`, in the SDK's form: the SDK then gives a session only to its owner, and
`waggle.mcp` reads the owner from there. A token does not leave this module. Knows no tools.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

import structlog
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle.domain.access import (
    LOCAL,
    METRICS,
    CannotVerify,
    Principal,
    ScopeMissing,
    SeveralOwners,
    TokenRefused,
    Verifier,
    one_owner,
)
from waggle.web.answers import Fields, fields, problem
from waggle.web.protocol import CONNECTION, GuardedProtocol

log = structlog.get_logger(__name__)

WELL_KNOWN = "/.well-known/oauth-protected-resource"
RETRY_SECONDS = 10
ADMITTED = "waggle.admitted"
"""The key of the scope of an offered websocket that holds whether its token is still valid."""
_OFFERED = "waggle.bearer."
"""The beginning of a subprotocol that is a token: browsers send no headers with a websocket."""
_SUBPROTOCOL = b"sec-websocket-protocol"
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OAuthResource:
    """The metadata for clients of an OAuth issuer: the URL of /mcp, the issuer, the scope."""

    url: str
    issuer: str
    scope: str = ""

    def document(self) -> dict[str, Any]:
        """Return the metadata of RFC 9728."""
        scopes = {"scopes_supported": [self.scope]} if self.scope else {}
        return {
            "resource": self.url,
            "authorization_servers": [self.issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": "waggle",
            **scopes,
        }

    @property
    def metadata_url(self) -> str:
        """The URL of `document`: the well-known part stands between host and path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The rules of access. Without a verifier everybody is let in, as the owner `local`.

    `several` says whether there may be more than one owner; `reread` reads the file of tokens now,
    and returns why it cannot be used.
    """

    verifier: Verifier | None = None
    resource: OAuthResource | None = None
    several: SeveralOwners = one_owner
    reread: Callable[[], str | None] = lambda: None

    def challenge(self, error: str = "", scope: str = "") -> str:
        """Return the value of the WWW-Authenticate header."""
        values = {"realm": "waggle"}
        if error:
            values["error"] = error
        if self.resource is not None:
            values["resource_metadata"] = self.resource.metadata_url
            scope = scope or self.resource.scope
        if scope:
            values["scope"] = scope
        return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in values.items())


OPEN = AccessRules()


class AccessCheck:
    """ASGI middleware that authenticates requests, and refuses others before reading a body.

    With `for_scraper`, only a scraper gets in: the owner METRICS, by a token of the tokens file.
    Otherwise everybody except that scraper does.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, *, for_scraper: bool = False) -> None:
        self._app = app
        self._rules = rules
        self._for_scraper = for_scraper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        principal = await self._admit(scope)
        if isinstance(principal, Response):
            await principal(scope, receive, send)
            return
        line: GuardedProtocol | None = scope.get(CONNECTION)
        if line is not None and not line.let_in(principal.owner):
            why = "Too many requests of yours are being served; wait for answers."
            answer = problem(503, why, {"Retry-After": "5", "Connection": "close"})
            await answer(scope, receive, send)
            return
        scope["user"] = _user(principal)
        if line is not None and line.offer:
            scope[ADMITTED] = partial(self._still_admits, scope, principal)
        await self._app(scope, receive, send)

    async def _still_admits(self, scope: Scope, principal: Principal) -> bool:
        """Whether the request would be let in again, or that cannot be known now."""
        again = await self._admit(scope)
        if isinstance(again, Response):
            return again.status_code == 503
        return again.owner == principal.owner

    async def _admit(self, scope: Scope) -> Principal | Response:
        rules = self._rules
        if rules.verifier is None:
            return Principal(LOCAL, "local")
        headers = fields(scope)
        given = headers.text(b"authorization")
        if given is None:
            given = _offered_token(scope, headers)
        if given is None:
            return self._unauthorized("Authentication is needed: send Authorization: Bearer TOKEN.")
        match = None if b"authorization" in headers.repeated else _BEARER.fullmatch(given)
        try:
            if match is None:
                raise TokenRefused("no bearer token")
            principal = await rules.verifier.verify(match[1])
        except TokenRefused as refusal:
            client = scope.get("client")  # a proxy's, if there is one
            log.info("auth_refused", why=refusal.reason, client=str(client[0]) if client else None)
            return self._refused(refusal)
        if (principal == Principal(METRICS, "token")) is self._for_scraper:
            return principal
        return problem(403, "This token is for something else.")

    def _refused(self, refusal: TokenRefused) -> Response:
        if isinstance(refusal, CannotVerify):
            return problem(
                503,
                "Tokens cannot be checked now: the issuer cannot be reached. Try again later.",
                {"Retry-After": str(RETRY_SECONDS)},
            )
        if isinstance(refusal, ScopeMissing):
            challenge = self._rules.challenge("insufficient_scope", refusal.scope)
            why = f"The token lacks the scope {refusal.scope}."
            return problem(403, why, {"WWW-Authenticate": challenge})
        return self._unauthorized("The token is not valid, or not any more.", "invalid_token")

    def _unauthorized(self, message: str, error: str = "") -> Response:
        return problem(401, message, {"WWW-Authenticate": self._rules.challenge(error)})


def _offered_token(scope: Scope, headers: Fields) -> str | None:
    """Return the token among the subprotocols of an offered websocket, as a header has it."""
    line: GuardedProtocol | None = scope.get(CONNECTION)
    if line is None or not line.offer or _SUBPROTOCOL in headers.repeated:
        return None
    words = (headers.text(_SUBPROTOCOL) or "").split(",")
    found = [word.strip()[len(_OFFERED) :] for word in words if word.strip().startswith(_OFFERED)]
    return f"Bearer {found[0]}" if len(found) == 1 else None


@lru_cache(maxsize=100)
def _user(principal: Principal) -> AuthenticatedUser:
    """Return an authenticated client in the SDK's form. It never changes, so requests share it."""
    return AuthenticatedUser(AccessToken(token="", client_id=principal.owner, scopes=[]))


def metadata_routes(rules: AccessRules) -> list[Route]:
    """Return the routes of RFC 9728: for the resource's path, and for clients that use the root."""
    resource = rules.resource
    if resource is None:
        return []

    async def metadata(_request: Request) -> Response:
        return JSONResponse(resource.document(), headers={"Cache-Control": "max-age=3600"})

    paths = dict.fromkeys((urlsplit(resource.metadata_url).path, f"{WELL_KNOWN}/mcp", WELL_KNOWN))
    return [Route(path, metadata, methods=["GET"]) for path in paths]


def owner_of(scope: Scope) -> str:
    """Return the owner of an authenticated request."""
    user: object = scope.get("user")
    return user.access_token.client_id if isinstance(user, AuthenticatedUser) else LOCAL


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


def host_check(app: ASGIApp, policy: HostPolicy) -> ASGIApp:
    """Refuse requests that `policy` refuses, before anything else looks at them."""
    served: set[str | None] = set()  # up to MOST_REMEMBERED Hosts; the policy never changes

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = fields(scope)
            host, origin = headers.text(b"host"), headers.text(b"origin")
            if origin is not None or host not in served:
                if refusal := policy.refusal(host, origin):
                    await problem(*refusal)(scope, receive, send)
                    return
                if len(served) < MOST_REMEMBERED:
                    served.add(host)
        await app(scope, receive, send)

    return check
