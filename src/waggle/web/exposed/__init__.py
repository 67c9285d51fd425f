# SPDX-License-Identifier: Apache-2.0
"""Exposed ports of environments on the server itself: `/e/ID/PORT/`, and hosts of their own.

Called by `waggle.web`: for paths, behind the same check of Host as /mcp. Whoever may call the
server as the environment's owner may use the port, and so may who has a link. Browsers: by path, a
guest's page gets an origin of its own (`headers.SANDBOX`), since the server's is that of /mcp.
Pages of other origins may neither write nor open websockets, whatever cookies a browser adds.
`passing` is one request on its way.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from waggle.domain.access import CannotVerify, ScopeMissing, TokenRefused
from waggle.domain.exposed_url import in_path
from waggle.service.environments.ports import Admitted
from waggle.web.access import ADMITTED, AccessCheck, AccessRules, owner_of
from waggle.web.answers import Fields, fields
from waggle.web.endpoint import McpEndpoint
from waggle.web.exposed import links
from waggle.web.exposed.cookies import link_tokens
from waggle.web.exposed.serving import Client, ExposedLimits, ExposedPorts, Serving, Wanted
from waggle.web.protocol import CONNECTION, GuardedProtocol

__all__ = ["ExposedEndpoint", "ExposedLimits", "ExposedPorts"]
_WANTED = "waggle.exposed"
"""The key of a request's scope that holds which port it is for."""


class ExposedEndpoint:
    """An ASGI application for exposed ports. `mcp` shows whether the server stops."""

    def __init__(
        self, parts: ExposedPorts, mcp: McpEndpoint, rules: AccessRules, origins: Collection[str]
    ) -> None:
        self._parts = parts
        self._mcp = mcp
        self._verifier = rules.verifier
        self._is_open = rules.verifier is None
        self._origins = origins
        self._serving = Serving(parts, mcp.closing)
        self._check = AccessCheck(self._as_client, rules)

    def names(self, scope: Scope) -> bool:
        """Whether the request's Host is that of an exposed port."""
        return self._parts.urls.in_host(fields(scope).text(b"host") or "") is not None

    def offers(self, url: bytes, given: Fields) -> bool:
        """Whether a request may become a websocket here."""
        is_path = in_path(url.partition(b"?")[0]) is not None
        return is_path or self._parts.urls.in_host(given.text(b"host") or "") is not None

    def _wanted(self, scope: Scope) -> Wanted | None:
        path: bytes = scope["raw_path"]
        host = fields(scope).text(b"host") or ""
        if (place := self._parts.urls.in_host(host)) is not None:
            return Wanted(place, path, by_path=False, query=scope["query_string"])
        found = in_path(path)
        if found is None:
            return None
        return Wanted(*found, by_path=True, query=scope["query_string"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whose path or Host is that of a port."""
        wanted = self._wanted(scope)
        answer = self._refusal(scope, wanted)
        if answer is None and wanted is not None:
            answer = await self._enter(wanted, scope, receive, send)
        if answer is not None:
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope, wanted: Wanted | None) -> Response | None:
        if wanted is None:
            return links.text(404, "Exposed ports are at /e/ENVIRONMENT_ID/PORT/.")
        if self._mcp.draining:
            return links.text(503, "The server is shutting down.", {"Retry-After": "5"})
        if scope["method"] == "TRACE":
            return links.text(405, "TRACE is not passed on.", {"Allow": "GET, HEAD, POST"})
        if not wanted.rest:
            target = self._outside(wanted, b"/")
            return Response(None, 308, {"Location": target.decode("latin-1")})
        return None

    def _outside(self, wanted: Wanted, rest: bytes) -> bytes:
        """Return the path and query at which browsers find a part of the port."""
        prefix = self._parts.urls.prefix(wanted.place).encode() if wanted.by_path else b""
        rest = b"/." + rest if rest.startswith(b"//") and not prefix else rest
        return prefix + rest + (b"?" + wanted.query if wanted.query else b"")

    async def _enter(
        self, wanted: Wanted, scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        """Admit by a link, or else as the server does; then serve."""
        token, query = links.taken_from(wanted.query)
        place, service = wanted.place, self._parts.service
        wanted = Wanted(place, wanted.rest, wanted.by_path, query)
        if token is not None:
            admitted = service.admit(place.environment_id, place.port, token)
            if admitted is None:
                return links.refused()
            if links.is_page_request(scope):
                return self._keep(wanted, token, admitted)
            return await self._as_visitor(wanted, admitted, scope, receive, send)
        given = [value for name, value in scope["headers"] if name == b"cookie"]
        tokens = link_tokens(given)
        for held in tokens:
            if admitted := service.admit(place.environment_id, place.port, held):
                if not self._is_own_page(wanted, fields(scope)):
                    return links.text(403, "Pages of this Origin may not use this port.")
                return await self._as_visitor(wanted, admitted, scope, receive, send)
        if tokens and b"authorization" not in fields(scope) and not self._is_open:
            return links.refused()
        scope[_WANTED] = wanted
        await self._check(scope, receive, send)
        return None

    def _keep(self, wanted: Wanted, token: str, admitted: Admitted) -> Response:
        urls = self._parts.urls
        return links.entered(
            token,
            max(1, int(admitted.expires - self._parts.now())),
            path=f"{urls.prefix(wanted.place)}/" if wanted.by_path else None,
            secure=urls.is_secure,
            target=self._outside(wanted, wanted.rest),
        )

    def _is_own_page(self, wanted: Wanted, given: Fields) -> bool:
        """Whether the page that sends it, if any names itself, is the port's own or is allowed.

        By host, pages of the same environment's other ports are its own, too. A page by path has
        no origin that browsers name, so what it embeds looks like what others embed.
        """
        origin, host = given.text(b"origin"), given.text(b"host") or ""
        if origin is None and not wanted.by_path and _is_embedded(given):
            scheme, _, rest = (given.text(b"referer") or "").partition("://")
            origin = f"{scheme}://{rest.partition('/')[0]}"
        if origin is None or origin in self._origins or "*" in self._origins:
            return True
        authority = origin.partition("://")[2].lower()
        if authority == host.lower():
            return True
        other = None if wanted.by_path else self._parts.urls.in_host(authority)
        return other is not None and other.environment_id == wanted.place.environment_id

    async def _as_client(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a client that the server let in, as the owner whom it authenticated."""
        wanted: Wanted = scope[_WANTED]
        if self._is_open and not self._is_own_page(wanted, fields(scope)):
            answer = links.text(403, "Pages of this Origin may not use this port.")
            await answer(scope, receive, send)
            return
        client = Client(
            owner_of(scope),
            authorization=self._is_open,
            is_private=not self._is_open,
            is_admitted=scope.get(ADMITTED),
        )
        await self._serving.serve(wanted, client, scope, receive, send)

    async def _as_visitor(
        self, wanted: Wanted, admitted: Admitted, scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        """Serve who has a link, until it expires or ends."""
        line: GuardedProtocol | None = scope.get(CONNECTION)
        if line is not None and not line.let_in(admitted.owner):
            return links.text(503, "Too many requests are being served.", {"Retry-After": "5"})
        mine = not await self._is_waggles(fields(scope))
        client = Client(admitted.owner, authorization=mine, expires=admitted.expires)
        await self._serving.serve(wanted, client, scope, receive, send)
        return None

    async def _is_waggles(self, given: Fields) -> bool:
        """Whether the request holds a token of the server, or one that cannot be checked now.

        So an Authorization header beside a link's cookie is for the guest only if it is not.
        """
        if b"authorization" in given.repeated:
            return True  # it cannot be known which
        words = (given.text(b"authorization") or "").split()
        if self._verifier is None or len(words) != 2 or words[0].lower() != "bearer":
            return False
        try:
            await self._verifier.verify(words[1])
        except TokenRefused as refusal:
            return isinstance(refusal, CannotVerify | ScopeMissing)
        return True


def _is_embedded(given: Fields) -> bool:
    """Whether a browser says that a page of another origin embeds this, or a part of it."""
    site, mode = given.get(b"sec-fetch-site"), given.get(b"sec-fetch-mode")
    return site in (b"same-site", b"cross-site") and mode != b"navigate"
