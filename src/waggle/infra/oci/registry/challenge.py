# SPDX-License-Identifier: Apache-2.0
"""Parses WWW-Authenticate challenges (RFC 9110) and speaks the token specification. Pure.

Called by `client`. Reads several challenges in one header or in several, builds requests to token
services and parses their answers. Registries are treated as hostile: everything is bounded, and
unreadable parts are left out, never guessed. Tokens are opaque and appear in no message.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx2

from waggle.domain.errors import ImageCorrupt, ImageUnavailable
from waggle.infra.oci.registry.credentials import Credentials
from waggle.infra.oci.registry.endpoints import Endpoint, shown
from waggle.infra.oci.registry.exchange import Request
from waggle.infra.oci.registry.options import Reach
from waggle.infra.oci.store.image import Json, load_json

MAX_HEADER = 8192
_MAX_SCOPE = 1024

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_WORD})(?=[\s,]|\Z)")
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|\Z))")
_GAP = re.compile(r"[\s,]*")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry requires a user name and a password with every request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry requires a token, which the service at the URL `realm` issues."""

    realm: str
    service: str = ""
    scope: str = ""


Parameters = dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[tuple[str, Parameters]]:
    """Return (scheme, parameters) in order, names in lower case; malformed text ends a header.

    Of a repeated parameter, the first value counts.
    """
    found: list[tuple[str, Parameters]] = []
    for header in headers:
        if len(header) <= MAX_HEADER:
            found += _one_header(header)
    return found


def _one_header(text: str) -> list[tuple[str, Parameters]]:
    found: list[tuple[str, Parameters]] = []
    at = _skip_gap(text, 0)
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found[-1][1].setdefault(name.lower(), value)
            at = _skip_gap(text, parameter.end())
            continue
        scheme = _SCHEME.match(text, at)
        if not scheme:
            break
        found.append((scheme[1].lower(), {}))
        at = _skip_gap(text, scheme.end())
        if "," not in text[scheme.end() : at] and not _PARAMETER.match(text, at):
            token = _TOKEN68.match(text, at)
            at = _skip_gap(text, token.end()) if token else at
    return found


def _skip_gap(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def choose(headers: Iterable[str]) -> Bearer | Basic | None:
    """Pick a challenge that we can answer: a token service first, else a password; or None."""
    basic: Basic | None = None
    for scheme, parameters in parse_challenges(headers):
        if scheme == "bearer" and _usable(parameters):
            return Bearer(
                parameters["realm"], parameters.get("service", ""), parameters.get("scope", "")
            )
        if scheme == "basic":
            basic = Basic()
    return basic


def _usable(parameters: Parameters) -> bool:
    return (
        bool(parameters.get("realm"))
        and len(parameters.get("scope", "")) <= _MAX_SCOPE
        and all(_PRINTABLE.fullmatch(value) for value in parameters.values())
    )


MAX_ANSWER = 256 * 1024
_CLIENT = "waggle"
_MAX_TOKEN = 64 * 1024
_SHORTEST_LIFE = 60.0
_LONGEST_LIFE = 3600.0
_MARGIN = 5.0


def realm_of(endpoint: Endpoint, challenge: Bearer) -> httpx2.URL:
    """Return the token service's URL. Raises ImageUnavailable when it may not be used."""
    try:
        realm = httpx2.URL(challenge.realm)
    except httpx2.InvalidURL:
        realm = httpx2.URL()
    fitting = {"https", "http"} if endpoint.insecure else {"https"}
    if realm.scheme in fitting and realm.host and not realm.userinfo:
        return realm
    if realm.scheme == "http" and realm.host:
        raise ImageUnavailable(
            f"{endpoint.registry} names a token service that is not encrypted: {shown(realm)}."
        )
    raise ImageUnavailable(f"{endpoint.registry} names a token service that is no web address.")


def wanted_scopes(asked: str, own: str) -> list[str]:
    """Return the scopes of a token: `own` and what the registry wants for other resources. Pure.

    The registry wants what one request needs (HEAD: pull); ours covers all that follow.
    """
    resource = own.rpartition(":")[0]
    return [own, *(scope for scope in asked.split() if scope.rpartition(":")[0] != resource)]


def token_request(
    realm: httpx2.URL,
    service: str,
    scopes: list[str],
    credentials: Credentials | None,
    allowed: frozenset[Reach],
) -> Request:
    """Build the request for a token: GET, or POST if there is an identity token. Pure."""
    fields = [("service", service)] if service else []
    if credentials is not None and credentials.identity_token:
        fields += [
            ("client_id", _CLIENT),
            ("grant_type", "refresh_token"),
            ("scope", " ".join(scopes)),
            ("refresh_token", credentials.identity_token),
        ]
        form = {"content-type": "application/x-www-form-urlencoded"}
        return Request("POST", realm, form, urlencode(fields).encode(), allowed)
    fields += [("scope", scope) for scope in scopes]
    headers: dict[str, str] = {}
    if credentials is not None and credentials.username:
        fields.append(("account", credentials.username))
        headers["authorization"] = credentials.basic()
    query = "&".join(part for part in (realm.query.decode("ascii"), urlencode(fields)) if part)
    return Request("GET", realm.copy_with(query=query.encode()), headers, b"", allowed)


def parse_token(endpoint: Endpoint, body: bytes) -> tuple[str, float]:
    """Return a token and its lifetime in seconds. Raises ImageUnavailable."""
    fields: Json = {}
    with contextlib.suppress(ImageCorrupt):
        fields = load_json(body, "The token")
    token = fields.get("token") or fields.get("access_token")
    if not isinstance(token, str) or len(token) > _MAX_TOKEN:
        raise ImageUnavailable(f"The token service of {endpoint.registry} gives no token.")
    life = fields.get("expires_in")
    seconds = float(life) if isinstance(life, int) else _SHORTEST_LIFE
    return checked(token), min(max(seconds, _SHORTEST_LIFE), _LONGEST_LIFE) - _MARGIN


def checked(token: str) -> str:
    """Return a token that fits in a header. Raises ImageUnavailable without showing it."""
    if not token or not all("!" <= character <= "~" for character in token):
        raise ImageUnavailable("A token for the registry holds characters that no header can.")
    return token
