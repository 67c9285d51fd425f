# SPDX-License-Identifier: Apache-2.0
"""Answers a registry's challenge: with a password, or with a token from its token service.

Called by `client`, only with challenges that the registry itself sent over its own connection (TLS,
unless the operator listed it as insecure). Credentials go to that registry or to the service that
it names, and to no redirect of theirs. Tokens are kept by server and scope until they end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx2

from waggle.domain.errors import ImageUnavailable
from waggle.infra.oci.registry.addresses import Reach
from waggle.infra.oci.registry.challenge import Basic, Bearer, choose
from waggle.infra.oci.registry.credentials import Credentials, find_credentials
from waggle.infra.oci.registry.endpoints import Endpoint
from waggle.infra.oci.registry.exchange import Exchange
from waggle.infra.oci.registry.retry import retrying
from waggle.infra.oci.registry.tokens import (
    MAX_ANSWER,
    checked,
    parse_token,
    realm_of,
    token_request,
    wanted_scopes,
)

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
            return _Kept(f"Bearer {checked(credentials.registry_token)}", float("inf"))
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
        realm = realm_of(endpoint, challenge)
        scopes = wanted_scopes(challenge.scope, scope)
        ask = token_request(realm, challenge.service, scopes, credentials, allowed)

        async def once() -> tuple[httpx2.Response, bytes]:
            return await self._exchange.document(ask, MAX_ANSWER)

        response, body = await retrying(once, self._exchange.options, self._exchange.ambient)
        if response.status_code != 200:
            who = "the credentials for" if credentials else "anonymous access to"
            raise ImageUnavailable(
                f"The token service of {endpoint.registry} refuses {who} {endpoint.name}"
                f" (status {response.status_code}).",
                hint=_LOGIN,
            )
        token, life = parse_token(endpoint, body)
        return _Kept(f"Bearer {token}", self._exchange.ambient.now() + life)


def _refused(endpoint: Endpoint) -> ImageUnavailable:
    return ImageUnavailable(
        f"{endpoint.registry} refuses the credentials for {endpoint.repository}.", hint=_LOGIN
    )
