# SPDX-License-Identifier: Apache-2.0
"""The issuer's public keys: fetched when first needed, kept, and rarely fetched again.

Used by `jwt`. A known key is returned at once, also while others wait for a fetch. However many
tokens name unknown keys, the server fetches at most once per `Pace.retry`, one fetch at a time.
While the issuer cannot be reached, the present keys stay valid for `Pace.keep`. A fetch uses
HTTPS, or plain HTTP on loopback: no redirects, no compression, no proxies or credentials from
environment variables, at most MAX_BYTES, and the caller's deadline. `parse_keys` and `find_key` are
pure.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from waggle.domain.access import CannotVerify, TokenRefused

MAX_BYTES = 256 * 1024
CONNECT_SECONDS = 3.0


class FetchFailed(Exception):
    """The document could not be fetched; the text gives the reason, for the log."""


def is_safe_url(url: str) -> bool:
    """Whether keys may be fetched from the URL: HTTPS, or HTTP to this host itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def fetch_json(url: str, tls: ssl.SSLContext) -> dict[str, Any]:
    """Fetch the JSON object at `url`. The caller sets the deadline. Raises FetchFailed."""
    if not is_safe_url(url):
        raise FetchFailed("the URL is neither HTTPS nor on loopback")
    timeouts = httpx2.Timeout(CONNECT_SECONDS)
    try:
        async with (
            httpx2.AsyncClient(verify=tls, timeout=timeouts, trust_env=False) as http,
            http.stream("GET", url, headers=_HEADERS, follow_redirects=False) as answer,
        ):
            if answer.status_code != 200:
                raise FetchFailed(f"status {answer.status_code}")
            return _parse(await _read(answer))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise FetchFailed(type(error).__name__) from error


_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


async def _read(answer: httpx2.Response) -> bytes:
    data = bytearray()
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) > MAX_BYTES:
            raise FetchFailed(f"over {MAX_BYTES} bytes")
    return bytes(data)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError):
        raise FetchFailed("not JSON") from None
    if not isinstance(document, dict):
        raise FetchFailed("not a JSON object")
    return cast("dict[str, Any]", document)


PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_KEYS = 100
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ALGORITHMS = _RSA | {*_CURVES.values(), "EdDSA"}
"""Only asymmetric ones: with HMAC, anyone who knows the public key could sign."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, its name in the set (None without one), and the algorithms it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    key: PublicKey


def parse_keys(document: dict[str, Any]) -> tuple[Key, ...]:
    """Return the usable keys of a JWKS, without the others. Raises ValueError if there is none."""
    given: object = document.get("keys")
    if not isinstance(given, list):
        raise ValueError("no list of keys")
    items = cast("list[object]", given)
    if len(items) > MAX_KEYS:
        raise ValueError(f"over {MAX_KEYS} keys")
    keys = tuple(key for item in items if (key := _key(item)) is not None)
    if not keys:
        raise ValueError("no usable key")
    return keys


def find_key(keys: Sequence[Key], kid: str | None, algorithm: str) -> Key | None:
    """Return the key for a signature. Without a `kid`, exactly one key must fit."""
    fits = [key for key in keys if algorithm in key.algorithms and kid in (None, key.kid)]
    return fits[0] if len(fits) == 1 or (fits and kid is not None) else None


def _key(item: object) -> Key | None:
    if not isinstance(item, dict):
        return None
    fields = cast("dict[str, Any]", item)
    kid: object = fields.get("kid")
    if fields.get("use", "sig") != "sig" or not isinstance(kid, str | None):
        return None
    if fields.get("kty") not in ("RSA", "EC", "OKP") or "d" in fields:
        return None
    try:
        key: object = jwt.PyJWK.from_dict(fields).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        return None
    usable = _algorithms(key)
    named: object = fields.get("alg")
    if named is not None:
        usable &= {str(named)}
    return Key(kid, usable, key) if usable else None


def _algorithms(key: PublicKey) -> frozenset[str]:
    if isinstance(key, RSAPublicKey):
        return _RSA if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS else frozenset()
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset({_CURVES[key.curve.name]} if key.curve.name in _CURVES else ())
    return frozenset({"EdDSA"})


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds: for a fetch, between fetches, until a new fetch, until keys are too old."""

    fetch: float = 5.0
    retry: float = 10.0
    refresh: float = 600.0
    keep: float = 86_400.0


class Jwks:
    """The keys of one issuer. Holds no connection; nothing needs closing."""

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None,
        *,
        tls: ssl.SSLContext,
        monotonic: Callable[[], float],
        pace: Pace = Pace(),
    ) -> None:
        """Without `jwks_url`, take it from the metadata (RFC 8414, else OpenID discovery)."""
        self._issuer = issuer
        self._url = jwks_url
        self._tls = tls
        self._monotonic = monotonic
        self._pace = pace
        self._keys: tuple[Key, ...] = ()
        self._loaded = self._tried = -float("inf")
        self._fetching = anyio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """Return the key for a signature. Raises TokenRefused, or CannotVerify without any keys.

        Waits for at most one fetch under way and one of its own.
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
            raise CannotVerify("the issuer's keys are not available")
        key = find_key(self._keys, kid, algorithm)
        if key is None:
            raise TokenRefused("no such key")
        return key

    async def _renew(self, now: float) -> None:
        """Fetch, unless another caller did so since `now`, or too shortly before."""
        if not self._fetching.locked() and now - self._tried < self._pace.retry:
            return
        with anyio.move_on_after(self._pace.fetch + 1):
            async with self._fetching:
                if self._tried >= now or now - self._tried < self._pace.retry:
                    return
                self._tried = self._monotonic()
                # A caller that is cancelled must not keep the keys from all others.
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
    """Return the URLs of an issuer's metadata: RFC 8414, then OpenID Connect Discovery."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )
