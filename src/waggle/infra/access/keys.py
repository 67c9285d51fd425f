# SPDX-License-Identifier: Apache-2.0
"""Which public keys of a JWKS may check which signatures. Pure; used by `jwks` and `jwt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_KEYS = 100
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ALGORITHMS = _RSA | {*_CURVES.values(), "EdDSA"}
"""Only asymmetric ones: with HMAC, whoever knows the public key could sign."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, its name in the set (None when it has none), and the algorithms it may be used for."""

    kid: str | None
    algorithms: frozenset[str]
    key: PublicKey


def parse_keys(document: dict[str, Any]) -> tuple[Key, ...]:
    """The usable keys of a JWKS; what cannot be used is left out. Raises ValueError if none can."""
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
    """The key for a signature. Without a `kid` only the one key that fits will do."""
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
