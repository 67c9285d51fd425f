# SPDX-License-Identifier: Apache-2.0
"""The links of requests: their tokens in URLs and cookies, and the answers that are about them.

Used by `waggle.web.exposed`. A browser that comes with a token in the URL gets it as a cookie and
is sent to the URL without it, so that neither the guest nor a page that is linked from there sees
it. Programs that keep no cookies use the URL as it is. Texts are for people, and never say which
part of a link is wrong. Pure.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from waggle.domain.exposed_url import LINK
from waggle.web.answers import fields
from waggle.web.exposed.cookies import link_cookie

_PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_SAFE = {"X-Content-Type-Options": "nosniff", **_PRIVATE}


def text(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return a short answer of waggle's own."""
    return PlainTextResponse(f"waggle: {message}\n", status, headers={**_SAFE, **(headers or {})})


def refused() -> Response:
    """Return the answer to a link that is wrong, has expired, or whose port was closed."""
    return text(403, "This link is not valid, or not any more. Ask for a new one.")


def taken_from(query: bytes) -> tuple[str | None, bytes]:
    """Return the token in a query, empty if it is repeated, and the query without it."""
    parts = query.split(b"&") if query else []
    tokens = [part for part in parts if unquote_to_bytes(part.partition(b"=")[0]) == LINK.encode()]
    rest = b"&".join(part for part in parts if part not in tokens)
    if not tokens:
        return None, rest
    return tokens[0].partition(b"=")[2].decode("latin-1") if len(tokens) == 1 else "", rest


def is_page_request(scope: Scope) -> bool:
    """Whether a browser asks for a page, rather than a program or a page for something in it."""
    accepted = fields(scope).get(b"accept", b"")
    return scope["method"] in ("GET", "HEAD") and b"text/html" in accepted


def entered(token: str, seconds: int, *, path: str | None, secure: bool, target: bytes) -> Response:
    """Return the redirect to `target` that leaves the token as a cookie; see `link_cookie`."""
    cookie = link_cookie(token, seconds, path=path, secure=secure)
    location = target.decode("latin-1")
    return Response(None, 303, {**_SAFE, "Location": location, "Set-Cookie": cookie})
