# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens in front of /mcp and /metrics, and the metadata on how to get one (RFC 9728).

Built by `waggle.web.app` around its endpoints. Puts the verified client into the request's `user`
in the SDK's form: the SDK's session manager then gives a session only to the owner who opened it,
and `waggle.mcp` reads the owner from there. The token itself does not leave this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
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
    Identity,
    ScopeMissing,
    SeveralOwners,
    TokenRefused,
    Verifier,
    one_owner,
)
from waggle.web.answers import problem
from waggle.web.protocol import CONNECTION, GuardedProtocol

log = structlog.get_logger(__name__)

WELL_KNOWN = "/.well-known/oauth-protected-resource"
RETRY_SECONDS = 10
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

    `several` says whether there may be more than one owner.
    """

    verifier: Verifier | None = None
    resource: OAuthResource | None = None
    several: SeveralOwners = one_owner

    def challenge(self, error: str = "", scope: str = "") -> str:
        """Return the value of the WWW-Authenticate header."""
        fields = {"realm": "waggle"}
        if error:
            fields["error"] = error
        if self.resource is not None:
            fields["resource_metadata"] = self.resource.metadata_url
            scope = scope or self.resource.scope
        if scope:
            fields["scope"] = scope
        return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in fields.items())


OPEN = AccessRules()


class AccessCheck:
    """ASGI middleware that authenticates requests, and refuses others before reading a body.

    With `only=METRICS`, only a scraper gets in: the owner METRICS, by a token of the tokens file.
    Otherwise everybody except that scraper does.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, *, only: str | None = None) -> None:
        self._app = app
        self._rules = rules
        self._only = only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        identity = await self._identify(scope)
        if isinstance(identity, Response):
            await identity(scope, receive, send)
            return
        line: GuardedProtocol | None = scope.get(CONNECTION)
        if line is not None and not line.let_in(identity.owner):
            said = "Too many requests of yours are being served; wait for answers."
            answer = problem(503, said, {"Retry-After": "5", "Connection": "close"})
            await answer(scope, receive, send)
            return
        scope["user"] = _user(identity)
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Identity | Response:
        rules = self._rules
        if rules.verifier is None:
            return Identity(LOCAL, "local")
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            return self._unauthorized("Authentication is needed: send Authorization: Bearer TOKEN.")
        match = _BEARER.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
        try:
            if match is None:
                raise TokenRefused("no bearer token")
            identity = await rules.verifier.verify(match[1])
        except TokenRefused as refusal:
            log.info("auth_refused", why=refusal.reason, client=client_address(scope))
            return self._refused(refusal)
        return identity if self._may_enter(identity) else self._forbidden()

    def _may_enter(self, identity: Identity) -> bool:
        scraper = identity == Identity(METRICS, "token")
        return scraper if self._only == METRICS else not scraper

    def _refused(self, refusal: TokenRefused) -> Response:
        if isinstance(refusal, CannotVerify):
            return problem(
                503,
                "Tokens cannot be checked now: the issuer cannot be reached. Try again later.",
                {"Retry-After": str(RETRY_SECONDS)},
            )
        if isinstance(refusal, ScopeMissing):
            header = {
                "WWW-Authenticate": self._rules.challenge("insufficient_scope", refusal.scope)
            }
            return problem(403, f"The token lacks the scope {refusal.scope}.", header)
        return self._unauthorized("The token is not valid, or not any more.", "invalid_token")

    def _unauthorized(self, message: str, error: str = "") -> Response:
        return problem(401, message, {"WWW-Authenticate": self._rules.challenge(error)})

    def _forbidden(self) -> Response:
        return problem(403, "This token is for something else.")


@lru_cache(maxsize=100)
def _user(identity: Identity) -> AuthenticatedUser:
    """Return an authenticated client in the SDK's form. It never changes, so requests share it."""
    token = AccessToken.model_construct(
        token="",
        client_id=identity.owner,
        scopes=[],
        expires_at=None,
        resource=None,
        subject=None,
        claims=None,
    )
    return AuthenticatedUser(token)


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


def client_address(scope: Scope) -> str | None:
    """Return the address at the other end of the connection; a proxy's, if there is one."""
    client = scope.get("client")
    return str(client[0]) if client else None
