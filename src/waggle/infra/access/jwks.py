# SPDX-License-Identifier: Apache-2.0
"""The issuer's public keys: fetched when first needed, kept, and fetched again with restraint.

Used by `jwt`. A known key is answered without waiting, also while others wait for a fetch. A token
that names an unknown key makes the server ask again, but however many such tokens come, it asks at
most once per `RETRY_SECONDS`, and one at a time. When the issuer cannot be reached, the keys that
are there go on for `KEEP_SECONDS`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import structlog

from waggle.domain.access import CannotVerify, TokenRefused
from waggle.infra.access.fetch import FetchFailed, fetch_json, is_safe_url
from waggle.infra.access.keys import Key, find_key, parse_keys

log = structlog.get_logger(__name__)

FETCH_SECONDS = 5.0
RETRY_SECONDS = 10.0
REFRESH_SECONDS = 600.0
KEEP_SECONDS = 86_400.0

FetchJson = Callable[[str], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: for one fetch, between fetches, until keys are renewed, until they are too old."""

    fetch: float = FETCH_SECONDS
    retry: float = RETRY_SECONDS
    refresh: float = REFRESH_SECONDS
    keep: float = KEEP_SECONDS


class Jwks:
    """The keys of one issuer. Holds no connection; nothing needs closing."""

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None,
        *,
        tls: ssl.SSLContext,
        monotonic: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        """Without `jwks_url` the issuer's metadata (RFC 8414, else OpenID discovery) tells it."""
        self._issuer = issuer
        self._url = jwks_url
        self._tls = tls
        self._monotonic = monotonic
        self._pace = pace or Pace()
        self._keys: tuple[Key, ...] = ()
        self._loaded = self._tried = -float("inf")
        self._fetching = anyio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """The key for a signature. Raises TokenRefused, or CannotVerify when keys cannot be had.

        Waits for at most one fetch that is going on and one of its own.
        """
        now = self._monotonic()
        if now - self._loaded > self._pace.keep:
            self._keys = ()
        key = find_key(self._keys, kid, algorithm)
        stale = now - self._loaded > self._pace.refresh
        due = now - self._tried >= self._pace.retry
        if key is None or (stale and due and not self._fetching.locked()):
            await self._renew(now)
        if not self._keys:
            raise CannotVerify("the issuer's keys cannot be had")
        key = find_key(self._keys, kid, algorithm)
        if key is None:
            raise TokenRefused("no such key")
        return key

    async def _renew(self, asked: float) -> None:
        """Fetch, unless somebody has done so since `asked`, or too shortly before."""
        if not self._fetching.locked() and asked - self._tried < self._pace.retry:
            return
        with anyio.move_on_after(self._pace.fetch + 1):
            async with self._fetching:
                if self._tried >= asked or asked - self._tried < self._pace.retry:
                    return
                self._tried = self._monotonic()
                # A caller that hangs up must not keep the keys from everybody else.
                with anyio.CancelScope(shield=True):
                    await self._fetch()

    async def _fetch(self) -> None:
        try:
            with anyio.fail_after(self._pace.fetch):
                url = self._url or await self._discover()
                keys = parse_keys(await fetch_json(url, self._tls))
        except (FetchFailed, ValueError, TimeoutError) as error:
            why = str(error) or f"no answer within {self._pace.fetch:g} s"
            log.warning("jwks_not_fetched", issuer=self._issuer, why=why, kept=len(self._keys))
            return
        self._keys, self._loaded = keys, self._monotonic()
        log.info("jwks_fetched", issuer=self._issuer, keys=len(keys))

    async def _discover(self) -> str:
        why = ""
        for url in metadata_urls(self._issuer):
            try:
                document = await fetch_json(url, self._tls)
            except FetchFailed as error:
                why = str(error)
                continue
            if document.get("issuer") != self._issuer:
                raise FetchFailed("the issuer's metadata names another issuer")
            found: object = document.get("jwks_uri")
            if not isinstance(found, str) or not is_safe_url(found):
                raise FetchFailed("the issuer's metadata has no usable jwks_uri")
            return found
        raise FetchFailed(f"no metadata of the issuer: {why}")


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where an issuer's metadata is: RFC 8414 first, then OpenID Connect Discovery."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )
