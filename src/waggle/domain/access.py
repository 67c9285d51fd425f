# SPDX-License-Identifier: Apache-2.0
"""Who calls: owners, identities, and why a token is refused.

An owner is whom environments belong to. Made from what `waggle.infra.access` has verified; services
compare owners and know no tokens. Nothing here ever holds a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NewType, Protocol
from urllib.parse import quote

from waggle.domain.errors import InvalidArgument

Owner = NewType("Owner", str)
"""1 to 512 printable ASCII characters without spaces."""

LOCAL = Owner("local")
"""Everybody, while nobody has to authenticate."""
METRICS = Owner("metrics")
"""The owner whose token opens /metrics and nothing else."""
_OWNER = re.compile(r"[!-~]{1,512}")
_KEPT = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%#")


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that was let in, and how."""

    owner: Owner
    kind: Literal["local", "token", "oauth"]


class TokenRefused(Exception):
    """The token is not valid. `reason` is for the operator's log and never holds the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ScopeMissing(TokenRefused):
    """The token is valid, but was not given for this."""

    def __init__(self, scope: str) -> None:
        super().__init__("scope")
        self.scope = scope


class CannotVerify(TokenRefused):
    """Nobody can say now whether the token is valid: the issuer's keys cannot be had."""


class Verifier(Protocol):
    """Says who a token belongs to."""

    async def verify(self, token: str) -> Identity:
        """The caller. Raises TokenRefused, ScopeMissing or CannotVerify."""
        ...


def parse_owner(text: str) -> Owner:
    """A usable owner. Raises InvalidArgument."""
    if not _OWNER.fullmatch(text):
        raise InvalidArgument(
            f"{text[:80]!r} cannot be an owner.",
            hint="Use 1 to 512 printable ASCII characters without spaces, such as a name.",
        )
    return Owner(text)


def issued_owner(issuer: str, subject: str) -> Owner:
    """The owner for a subject of an issuer; two of either never share one.

    Raises InvalidArgument when that is too long. An issuer has no fragment, so `#` divides.
    """
    return parse_owner(f"{issuer}#{escaped(subject)}")


def escaped(text: str) -> str:
    """`text` as printable ASCII without spaces; different texts stay different."""
    return quote(text, safe=_KEPT, errors="backslashreplace")


def has_scope(given: Iterable[str], wanted: str) -> bool:
    """Whether a token with these scopes may do what needs `wanted`; an empty one needs nothing."""
    return not wanted or wanted in given
