# SPDX-License-Identifier: Apache-2.0
"""Authenticated requests to one registry's API, retried when that may help.

Called by `manifests`, `blobs`, `push` and `Puller`. Combines `exchange` (redirects, failures),
`challenge` and `retrying`; knows no document formats and no files. Answers only challenges that the
registry itself sent over its own connection (TLS, unless the operator listed it as insecure), with
a password or a token. Credentials go to that registry or to the token service that it names, and to
no target of their redirects. Tokens are kept per server and scope until they expire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Self

import httpx2

from waggle.domain.errors import ImageMissing, ImageUnavailable
from waggle.infra.oci.registry.challenge import (
    MAX_ANSWER,
    Basic,
    Bearer,
    checked,
    choose,
    parse_token,
    realm_of,
    token_request,
    wanted_scopes,
)
from waggle.infra.oci.registry.credentials import Credentials, find_credentials
from waggle.infra.oci.registry.endpoints import Endpoint, origin, retrying
from waggle.infra.oci.registry.exchange import Exchange, Request, read_body
from waggle.infra.oci.registry.options import Ambient, Reach, RegistryOptions

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
        """Return the Authorization header known to be required, if any."""
        kept = self._kept.get((endpoint.name, scope))
        if kept is None or kept.ends <= self._exchange.ambient.now():
            return None
        return kept.header

    async def answer(
        self, endpoint: Endpoint, scope: str, response: httpx2.Response, used: str | None
    ) -> str:
        """Return the header that answers a 401 of the endpoint; `used` is the one just refused.

        Raises ImageUnavailable when there is no (other) answer, RegistryBusy when the token service
        is busy.
        """
        key = (endpoint.name, scope)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self.header(endpoint, scope)
            if known is not None and known != used:
                return known  # another task has answered already
            challenge = choose(response.headers.get_list("www-authenticate"))
            allowed = self._exchange.allowed_from(endpoint.url(""), response)
            kept = await self._answer(endpoint, scope, challenge, allowed)
            if kept.header == used:
                raise ImageUnavailable(
                    f"{endpoint.registry} refuses the credentials for {endpoint.repository}.",
                    hint=_LOGIN,
                )
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
        request = token_request(realm, challenge.service, scopes, credentials, allowed)

        async def once() -> tuple[httpx2.Response, bytes]:
            return await self._exchange.document(request, MAX_ANSWER)

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


_CHALLENGES = 2
"""Answers to a 401 within one request: with a kept token that expired, and with a new one."""


class Client:
    """Sends requests to registries during one pull or push. Use `async with Client(...)`."""

    def __init__(self, options: RegistryOptions, ambient: Ambient, actions: str = "pull") -> None:
        """`actions` is the access that tokens are requested for: `pull` or `pull,push`."""
        self.options = options
        self.ambient = ambient
        self._actions = actions
        self._exchange = Exchange(options, ambient)
        self._authenticator = Authenticator(self._exchange)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exchange.aclose()

    @contextlib.asynccontextmanager
    async def open(
        self, endpoint: Endpoint, request: Request, expected: Collection[int], what: str
    ) -> AsyncGenerator[httpx2.Response]:
        """Give a response whose status is one of `expected`; tried once.

        `what` names the resource in messages. Raises Transient, ImageMissing for 404, and
        ImageUnavailable for other refusals. Credentials go only to the endpoint's own origin.
        """
        scope = f"repository:{endpoint.repository}:{self._actions}"
        own = origin(request.url) == origin(endpoint.url(""))
        header = self._authenticator.header(endpoint, scope) if own else None
        for challenges in range(_CHALLENGES + 1):
            headers = {**request.headers, "authorization": header} if header else request.headers
            allowed = request.allowed & endpoint.allowed
            step = replace(request, headers=headers, allowed=allowed)
            async with self._exchange.open(step) as response:
                status = response.status_code
                # The challenge of a redirect's target is not for our credentials.
                if status == 401 and own and origin(response.request.url) == origin(request.url):
                    if challenges == _CHALLENGES:
                        raise refusal(endpoint, what, status)
                    header = await self._authenticator.answer(endpoint, scope, response, header)
                    continue
                if status not in expected:
                    raise refusal(endpoint, what, status)
                yield response
                return

    async def document(
        self, endpoint: Endpoint, path: str, headers: Mapping[str, str], limit: int, what: str
    ) -> tuple[httpx2.Response, bytes]:
        """Fetch a small document, retried while that may help. Raises ImageCorrupt over `limit`."""

        async def once() -> tuple[httpx2.Response, bytes]:
            request = Request("GET", endpoint.url(path), headers)
            async with self.open(endpoint, request, {200}, what) as response:
                return response, await read_body(response, limit, endpoint.registry)

        return await retrying(once, self.options, self.ambient)


def refusal(endpoint: Endpoint, what: str, status: int) -> ImageMissing | ImageUnavailable:
    """Return the error for an unexpected status. Pure."""
    if status == 404:
        return ImageMissing(
            f"{endpoint.registry} has no {what}.", hint="Check the name and the tag."
        )
    if status in {401, 403}:
        return ImageUnavailable(
            f"{endpoint.registry} refuses {what} (status {status}).",
            hint="Check the name, and the credentials in the auth file.",
        )
    return ImageUnavailable(f"{endpoint.registry} answers with status {status} for {what}.")
