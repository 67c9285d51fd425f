# SPDX-License-Identifier: Apache-2.0
"""Access tokens of an OAuth issuer: signed JWTs that name this server as their audience (RFC 9068).

Built by the composition root, called by `waggle.web`. Knows no settings, and no HTTP of the server.
A token's claims are believed only after its signature was checked with a key of the issuer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jwt

from waggle.domain.access import (
    Owner,
    Principal,
    ScopeMissing,
    TokenRefused,
    escaped,
    has_scope,
    issued_owner,
    parse_owner,
)
from waggle.domain.errors import InvalidArgument
from waggle.infra.access.jwks import ALGORITHMS, Jwks
from waggle.infra.access.tokens_file import digest

MAX_TOKEN = 16_384
LEEWAY_SECONDS = 30.0
REMEMBER_SECONDS = 30.0
_REMEMBERED = 1024
_NO_CHECKS = dict.fromkeys(
    ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss"), False
)
"""`judge` checks these claims, with the time that it is given."""


@dataclass(frozen=True, slots=True)
class JwtRules:
    """The required claims of a token. Without `owner_claim`, issuer and subject form the owner."""

    issuer: str
    audience: str
    scope: str = ""
    owner_claim: str = ""
    leeway: float = LEEWAY_SECONDS


class JwtVerifier:
    """The verifier of one issuer's tokens. Keeps a verified token's claims for 30 s by its hash."""

    def __init__(
        self,
        rules: JwtRules,
        keys: Jwks,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`now` is seconds since the epoch; `monotonic` times how long a result is kept."""
        self._rules = rules
        self._keys = keys
        self._now = now
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Return the token's principal. Raises TokenRefused, ScopeMissing or CannotVerify."""
        if len(token) > MAX_TOKEN:
            raise TokenRefused("too long")
        hashed = digest(token)
        until, claims = self._known.get(hashed, (0.0, None))
        if claims is None or self._monotonic() >= until:
            claims = await self._claims(token)
            self._remember(hashed, claims)
        return Principal(judge(claims, self._rules, self._now()), "oauth")

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise TokenRefused("malformed") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise TokenRefused("algorithm")
        if not isinstance(kid, str | None) or "crit" in header:
            raise TokenRefused("malformed")
        key = await self._keys.find(kid, algorithm)
        try:
            claims = jwt.decode(
                token, key.key, algorithms=[algorithm], options=cast("Any", _NO_CHECKS)
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenRefused("signature") from None
        return claims

    def _remember(self, hashed: str, claims: dict[str, Any]) -> None:
        self._known[hashed] = (self._monotonic() + REMEMBER_SECONDS, claims)
        self._known.move_to_end(hashed)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def judge(claims: Mapping[str, Any], rules: JwtRules, now: float) -> Owner:
    """Return the owner from verified claims. Raises TokenRefused or ScopeMissing. Pure."""
    if claims.get("iss") != rules.issuer:
        raise TokenRefused("issuer")
    if rules.audience not in _words(claims.get("aud"), split=False):
        raise TokenRefused("audience")
    expires = _time(claims, "exp")
    if expires is None:
        raise TokenRefused("no expiry")
    if now >= expires + rules.leeway:
        raise TokenRefused("expired")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and now < begins - rules.leeway:
            raise TokenRefused("not yet valid")
    owner = _owner(claims, rules)
    given = _words(claims.get("scope"), split=True) | _words(claims.get("scp"), split=True)
    if not has_scope(given, rules.scope):
        raise ScopeMissing(rules.scope)
    return owner


def _owner(claims: Mapping[str, Any], rules: JwtRules) -> Owner:
    value: object = claims.get(rules.owner_claim or "sub")
    if not isinstance(value, str) or not value:
        raise TokenRefused("no owner")
    try:
        if rules.owner_claim:
            return parse_owner(escaped(value))
        return issued_owner(rules.issuer, value)
    except InvalidArgument:
        raise TokenRefused("the owner is too long") from None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value: object = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused(f"{name} is no time")
    return value


def _words(value: object, *, split: bool) -> set[str]:
    """Return the strings of a claim: a list of strings, or one string, in words if `split`."""
    if isinstance(value, str):
        return set(value.split(" ")) if split else {value}
    items = cast("list[object]", value) if isinstance(value, list) else []
    return {item for item in items if isinstance(item, str)}
