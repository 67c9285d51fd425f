# SPDX-License-Identifier: Apache-2.0
"""Answers a registry's challenge: with a password, or with a token from its token service.

Called by `client`, only with challenges that the registry itself sent over its own connection (TLS,
unless the operator listed it as insecure). Credentials go to that registry or to the service that
it names, and to no redirect of theirs. Tokens are kept by server and scope until they end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode

import httpx2

from waggle.domain.errors import ImageUnavailable
from waggle.infra.oci.registry.addresses import Reach
from waggle.infra.oci.registry.challenge import Basic, Bearer, choose
from waggle.infra.oci.registry.credentials import Credentials, find_credentials
from waggle.infra.oci.registry.endpoints import Endpoint, shown
from waggle.infra.oci.registry.exchange import Ask, Exchange
from waggle.infra.oci.registry.retry import retrying

_CLIENT = "waggle"
_MAX_ANSWER = 256 * 1024
_MAX_TOKEN = 64 * 1024
_SHORTEST_LIFE = 60.0
_LONGEST_LIFE = 3600.0
_MARGIN = 5.0
_LOGIN = "Log in with a tool that writes auth.json, such as 'skopeo login', and name that file."

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    header: str
    ends: float

    def __repr__(self) -> str:
        return "_Kept(...)"


class Authenticator:
    """The credentials and tokens of one pull or push."""

    def __init__(self, exchange: Exchange) -> None:
        """`exchange` carries the requests to token services."""
        self._exchange = exchange
        self._kept: dict[Key, _Kept] = {}
        self._locks: dict[Key, asyncio.Lock] = {}
        self._found: dict[str, Credentials | None] = {}

    def header(self, endpoint: Endpoint, scope: str) -> str | None:
        """Return the Authorization header that is known to be wanted, if any."""
        kept = self._kept.get((endpoint.name, scope))
        if kept is None or kept.ends <= self._exchange.ambient.now():
            return None
        return kept.header

    async def answer(
        self, endpoint: Endpoint, scope: str, response: httpx2.Response, used: str | None
    ) -> str:
        """Return the header that answers a 401 of the endpoint; `used` is what it just refused.

        Raises ImageUnavailable when there is nothing (else) to answer, RegistryBusy when the token
        service is.
        """
        key = (endpoint.name, scope)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self.header(endpoint, scope)
            if known is not None and known != used:
                return known  # another task was here first
            challenge = choose(response.headers.get_list("www-authenticate"))
            allowed = self._exchange.allowed_from(endpoint.url(""), response)
            kept = await self._answer(endpoint, scope, challenge, allowed)
            if kept.header == used:
                raise _refused(endpoint)
            self._kept[key] = kept
            return kept.header

    async def _answer(
        self,
        endpoint: Endpoint,
        scope: str,
        challenge: Bearer | Basic | None,
        allowed: frozenset[Reach],
    ) -> _Kept:
        if challenge is None:
            raise ImageUnavailable(
                f"{endpoint.registry} wants an authentication that waggle does not know."
            )
        credentials = await self._credentials(endpoint)
        if credentials is not None and credentials.registry_token:
            return _Kept(f"Bearer {_checked(credentials.registry_token)}", float("inf"))
        if isinstance(challenge, Bearer):
            return await self._token(endpoint, scope, challenge, credentials, allowed)
        if credentials is None or credentials.identity_token:
            raise ImageUnavailable(
                f"{endpoint.registry} wants a user name and a password.", hint=_LOGIN
            )
        return _Kept(credentials.basic(), float("inf"))

    async def _credentials(self, endpoint: Endpoint) -> Credentials | None:
        if endpoint.name not in self._found:
            files = self._exchange.options.auth_files
            self._found[endpoint.name] = await find_credentials(files, endpoint.name)
        return self._found[endpoint.name]

    async def _token(
        self,
        endpoint: Endpoint,
        scope: str,
        challenge: Bearer,
        credentials: Credentials | None,
        allowed: frozenset[Reach],
    ) -> _Kept:
        realm = _realm(endpoint, challenge)
        scopes = (challenge.scope or scope).split()
        ask = token_request(realm, challenge.service, scopes, credentials, allowed)

        async def once() -> tuple[httpx2.Response, bytes]:
            return await self._exchange.document(ask, _MAX_ANSWER)

        response, body = await retrying(once, self._exchange.options, self._exchange.ambient)
        if response.status_code != 200:
            who = "the credentials for" if credentials else "anonymous access to"
            raise ImageUnavailable(
                f"The token service of {endpoint.registry} refuses {who} {endpoint.name}"
                f" (status {response.status_code}).",
                hint=_LOGIN,
            )
        return self._parse(endpoint, body)

    def _parse(self, endpoint: Endpoint, body: bytes) -> _Kept:
        fields = _fields(body)
        token = fields.get("token") or fields.get("access_token")
        if not isinstance(token, str) or len(token) > _MAX_TOKEN:
            raise ImageUnavailable(f"The token service of {endpoint.registry} gives no token.")
        life = fields.get("expires_in")
        seconds = float(life) if isinstance(life, int) else _SHORTEST_LIFE
        seconds = min(max(seconds, _SHORTEST_LIFE), _LONGEST_LIFE) - _MARGIN
        return _Kept(f"Bearer {_checked(token)}", self._exchange.ambient.now() + seconds)


def token_request(
    realm: httpx2.URL,
    service: str,
    scopes: list[str],
    credentials: Credentials | None,
    allowed: frozenset[Reach],
) -> Ask:
    """Build the request for a token: GET, or POST when we have an identity token. Pure."""
    fields = [("service", service)] if service else []
    if credentials is not None and credentials.identity_token:
        fields += [
            ("client_id", _CLIENT),
            ("grant_type", "refresh_token"),
            ("scope", " ".join(scopes)),
            ("refresh_token", credentials.identity_token),
        ]
        form = {"content-type": "application/x-www-form-urlencoded"}
        return Ask("POST", realm, form, urlencode(fields).encode(), allowed)
    fields += [("scope", scope) for scope in scopes]
    headers: dict[str, str] = {}
    if credentials is not None and credentials.username:
        fields.append(("account", credentials.username))
        headers["authorization"] = credentials.basic()
    query = "&".join(part for part in (realm.query.decode("ascii"), urlencode(fields)) if part)
    return Ask("GET", realm.copy_with(query=query.encode()), headers, b"", allowed)


def _realm(endpoint: Endpoint, challenge: Bearer) -> httpx2.URL:
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


def _fields(body: bytes) -> Mapping[str, object]:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _checked(token: str) -> str:
    """Return a token that can stand in a header. Raises ImageUnavailable without showing it."""
    if not token or not all("!" <= character <= "~" for character in token):
        raise ImageUnavailable("A token for the registry holds characters that no header can.")
    return token


def _refused(endpoint: Endpoint) -> ImageUnavailable:
    return ImageUnavailable(
        f"{endpoint.registry} refuses the credentials for {endpoint.repository}.", hint=_LOGIN
    )
