# SPDX-License-Identifier: Apache-2.0
"""Signed links to exposed ports: who has one may use that port until the link expires.

Made and judged by `waggle.service.environments.ports`. A token holds only its expiry and a
signature; what it opens is signed with it, so it fits nothing else. Pure; time is an argument, in
seconds since the epoch. Knows no URLs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

from waggle.domain.errors import InvalidArgument

MIN_MINUTES, DEFAULT_MINUTES, MAX_MINUTES = 1, 60, 7 * 24 * 60
KEY_BYTES = 32
"""The size of the server's key."""
_EXPIRY_BYTES = 6
_TOKEN = re.compile(r"[A-Za-z0-9_-]{50}[AEIMQUYcgkosw048]")
"""38 bytes in base64url, of which the last character holds only four bits."""


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """What a link opens. `key` is that of the exposed port: it changes with every expose."""

    environment_id: str
    port: int
    owner: str
    key: str


@dataclass(frozen=True, slots=True)
class Link:
    """A new link: its token, and when it expires."""

    token: str
    expires: int


def parse_minutes(minutes: float) -> int:
    """Return how long a link is valid, in whole seconds. Raises InvalidArgument."""
    if not MIN_MINUTES <= minutes <= MAX_MINUTES:
        raise InvalidArgument(
            f"A link is valid for {MIN_MINUTES} to {MAX_MINUTES} minutes.",
            hint=f"Leave it out for {DEFAULT_MINUTES}.",
        )
    return round(minutes * 60)


def sign(key: bytes, target: LinkTarget, expires: int) -> Link:
    """Return a link to `target` that expires then."""
    until = expires.to_bytes(_EXPIRY_BYTES, "big")
    token = base64.urlsafe_b64encode(until + _mac(key, target, until)).rstrip(b"=")
    return Link(token.decode("ascii"), expires)


def judge(key: bytes, target: LinkTarget, token: str, now: float) -> int | None:
    """Return when a link to `target` expires; None if it is none, or has expired.

    Takes the same time for every token of the right form.
    """
    if not _TOKEN.fullmatch(token):
        return None
    packed = base64.urlsafe_b64decode(token + "=")
    until, given = packed[:_EXPIRY_BYTES], packed[_EXPIRY_BYTES:]
    is_ours = hmac.compare_digest(_mac(key, target, until), given)
    expires = int.from_bytes(until, "big")
    return expires if is_ours and now < expires else None


def _mac(key: bytes, target: LinkTarget, until: bytes) -> bytes:
    parts = (target.environment_id, str(target.port), target.owner, target.key)
    message = bytearray(b"waggle link 1" + until)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        message += len(encoded).to_bytes(4, "big") + encoded
    return hmac.digest(key, bytes(message), hashlib.sha256)
