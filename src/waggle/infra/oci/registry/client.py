# SPDX-License-Identifier: Apache-2.0
"""Requests to one registry's API: authenticated when it asks, tried again when that may help.

Called by `manifests`, `blobs` and `push`. Combines `exchange` (redirects, failures), `auth` and
`retry`; knows no documents and no files.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import replace
from typing import Self

import httpx2

from waggle.domain.errors import ImageMissing, ImageUnavailable
from waggle.infra.oci.registry.auth import Authenticator
from waggle.infra.oci.registry.endpoints import Endpoint, origin
from waggle.infra.oci.registry.exchange import Ask, Exchange, read_body
from waggle.infra.oci.registry.options import Ambient, RegistryOptions
from waggle.infra.oci.registry.retry import retrying

_CHALLENGES = 2
"""Answers to a 401 within one request: with a kept token that ended, and with a new one."""


class Client:
    """Speaks to registries during one pull or push. Use it as `async with Client(...)`."""

    def __init__(self, options: RegistryOptions, ambient: Ambient, actions: str = "pull") -> None:
        """`actions` is what tokens are asked for: `pull` or `pull,push`."""
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
        self, endpoint: Endpoint, ask: Ask, expected: Collection[int], what: str
    ) -> AsyncGenerator[httpx2.Response]:
        """Give a response whose status is one of `expected`; tried once.

        `what` names the thing in messages. Raises Transient, ImageMissing for 404, and
        ImageUnavailable for other refusals. Credentials go only to the endpoint's own origin.
        """
        scope = f"repository:{endpoint.repository}:{self._actions}"
        own = origin(ask.url) == origin(endpoint.url(""))
        header = self._authenticator.header(endpoint, scope) if own else None
        for challenges in range(_CHALLENGES + 1):
            headers = {**ask.headers, "authorization": header} if header else ask.headers
            allowed = ask.allowed & endpoint.allowed
            step = replace(ask, headers=headers, allowed=allowed)
            async with self._exchange.open(step) as response:
                status = response.status_code
                if status == 401 and own and not _from_elsewhere(response, ask):
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
        """Fetch a small document, tried again while that may help. Longer ones: ImageCorrupt."""

        async def once() -> tuple[httpx2.Response, bytes]:
            ask = Ask("GET", endpoint.url(path), headers)
            async with self.open(endpoint, ask, {200}, what) as response:
                return response, await read_body(response, limit, endpoint.registry)

        return await retrying(once, self.options, self.ambient)


def _from_elsewhere(response: httpx2.Response, ask: Ask) -> bool:
    """Tell whether a redirect's target answered: its challenge is not for our credentials."""
    return origin(response.request.url) != origin(ask.url)


def refusal(endpoint: Endpoint, what: str, status: int) -> ImageMissing | ImageUnavailable:
    """Return the error for a status that nobody expected. Pure."""
    if status == 404:
        return ImageMissing(
            f"{endpoint.registry} has no {what}.", hint="Check the name and the tag."
        )
    if status in {401, 403}:
        return ImageUnavailable(
            f"{endpoint.registry} does not let us have {what} (status {status}).",
            hint="Check the name, and the credentials in the auth file.",
        )
    return ImageUnavailable(f"{endpoint.registry} answers with status {status} for {what}.")
