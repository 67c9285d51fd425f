# SPDX-License-Identifier: Apache-2.0
"""Access: owners, tokens, quotas, idempotency keys, and references to environments. Pure.

`waggle.infra.access` verifies tokens and makes identities from them; services compare owners and
know no tokens. Nothing here ever holds a token. An idempotency key belongs to one call with one set
of arguments and is refused with others, as in the IETF draft of the Idempotency-Key header.
References are resolved only among the caller's own objects, so they reveal nothing about others'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NewType, Protocol
from urllib.parse import quote

from waggle.domain.errors import InvalidArgument, QuotaExceeded

Owner = NewType("Owner", str)
"""The owner of environments: 1 to 512 printable ASCII characters without spaces."""

LOCAL = Owner("local")
"""Every client, while no authentication is required."""
METRICS = Owner("metrics")
"""The owner whose token opens /metrics and nothing else."""
_OWNER = re.compile(r"[!-~]{1,512}")
_KEPT = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%#")


@dataclass(frozen=True, slots=True)
class Principal:
    """An admitted client, and how it was admitted."""

    owner: Owner
    kind: Literal["local", "token", "oauth"]


class TokenRefused(Exception):
    """The token is not valid. `reason` is for the operator's log and never holds the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ScopeMissing(TokenRefused):
    """The token is valid, but lacks the scope that this needs."""

    def __init__(self, scope: str) -> None:
        super().__init__("scope")
        self.scope = scope


class CannotVerify(TokenRefused):
    """The token cannot be checked now: the issuer's keys are unavailable."""


class Verifier(Protocol):
    """Finds the owner of a token."""

    async def verify(self, token: str) -> Principal:
        """Return the client's principal. Raises TokenRefused, ScopeMissing or CannotVerify."""
        ...


def parse_owner(text: str) -> Owner:
    """Return `text` as an owner. Raises InvalidArgument."""
    if not _OWNER.fullmatch(text):
        raise InvalidArgument(
            f"{text[:80]!r} cannot be an owner.",
            hint="Use 1 to 512 printable ASCII characters without spaces, such as a name.",
        )
    return Owner(text)


def issued_owner(issuer: str, subject: str) -> Owner:
    """Return the owner for a subject of an issuer; different pairs never share an owner.

    An issuer has no fragment, so `#` separates the two. Raises InvalidArgument when the result is
    too long.
    """
    return parse_owner(f"{issuer}#{escaped(subject)}")


def escaped(text: str) -> str:
    """Return `text` as printable ASCII without spaces; different texts stay different."""
    return quote(text, safe=_KEPT, errors="backslashreplace")


def has_scope(given: Iterable[str], wanted: str) -> bool:
    """Whether a token with scopes `given` has the scope `wanted`; an empty `wanted` needs none."""
    return not wanted or wanted in given


SeveralOwners = Callable[[], bool]
"""Whether more than one owner may call now: tokens come and go while a server runs."""


def one_owner() -> bool:
    """The `SeveralOwners` of a server whose clients all are the same owner."""
    return False


def share_of(whole: int, *, several: bool) -> int:
    """Return what one owner may hold of `whole`: all of it, or half when there may be other owners.

    At least 1, so that every owner can have something; half of an odd number is rounded up.
    """
    return max(1, whole - whole // 2) if several else whole


@dataclass(frozen=True, slots=True)
class Quota:
    """How many things of one kind an owner may hold, and what to do when the quota is used up.

    `what` is plural, `setting` the operator's variable for it, `next_step` a sentence.
    """

    what: str
    most: int
    setting: str
    next_step: str

    def require(self, owner: str, held: int, more: int = 1) -> None:
        """Raise QuotaExceeded unless the owner may have `more` beside the `held` ones."""
        if held + more <= self.most:
            return
        wanted = "" if more == 1 else f" {more} more do not fit."
        raise QuotaExceeded(
            f"Owner {owner} has {held} of the {self.most} {self.what} that one owner may have."
            f"{wanted}",
            hint=f"{self.next_step} The operator's limit is {self.setting}.",
        )


KEEP = timedelta(hours=24)
KEEP_PER_OWNER = 1_000
KEEP_BYTES_PER_OWNER = 32 << 20
"""Bytes of results, which may carry images."""
MAX_KEY = 128
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A call with an idempotency key: owner, key, and the digest of its tool and arguments."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KnownCall:
    """The record of a keyed call: its digest, and its result once it has one."""

    fingerprint: str
    result: str | None


def parse_key(text: str) -> str:
    """Return `text` as an idempotency key. Raises InvalidArgument."""
    if not _KEY.fullmatch(text):
        raise InvalidArgument(
            f"idempotency_key must be 1 to {MAX_KEY} printable ASCII characters without spaces.",
            hint="A fresh UUID for each thing to be done once is a good key.",
        )
    return text


class CallStore(Protocol):
    """Remembers keyed calls across restarts. Every call is durable when it returns."""

    async def find(self, call: KeyedCall) -> KnownCall | None:
        """Return the record under the call's owner and key; None when absent or too old."""
        ...

    async def begin(self, call: KeyedCall) -> None:
        """Record the call as begun. Removes records that are too old or too many."""
        ...

    async def finish(self, call: KeyedCall, result: str) -> None:
        """Keep the call's result; remove the owner's oldest results while they exceed limits."""
        ...

    async def forget(self, call: KeyedCall) -> None:
        """Remove the call's record. Idempotent."""
        ...


MIN_SHORT = 6
"""The shortest start of an id, in characters, that may stand for the id when it is unambiguous."""
_MAX_LISTED = 5
_REFERENCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SHORT = re.compile(rf"[0-9a-f-]{{{MIN_SHORT},35}}")


def parse_reference_text(text: str, parameter: str, maker: str) -> str:
    """Return a text that can be an id or a name; tool `maker` returns what is called `parameter`.

    Raises InvalidArgument.
    """
    plain = text.strip(" \t\r\n`'\"")
    if not _REFERENCE.fullmatch(plain):
        raise InvalidArgument(
            f"{text[:60]!r} is no id, nor a name.",
            hint=f"{parameter} is what {maker} returned: a UUID, its first {MIN_SHORT} characters, "
            "or the name.",
        )
    return plain


def find_id(reference: str, known: Iterable[tuple[str, str]]) -> str | None:
    """Return the id that `reference` means among `known`, pairs of id and name, or None.

    A whole id takes precedence over names, and a name over the start of an id. Raises
    InvalidArgument, with the candidates, when several match.
    """
    pairs = [*known]
    wanted = reference.lower()
    if wanted in dict(pairs):
        return wanted
    found = [pair for pair in pairs if pair[1] == reference]
    if not found and _SHORT.fullmatch(wanted):
        found = [pair for pair in pairs if pair[0].startswith(wanted)]
    if len(found) > 1:
        listed = ", ".join(f"{known_id} ({name})" for known_id, name in found[:_MAX_LISTED])
        more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
        raise InvalidArgument(
            f"{reference!r} means {len(found)} of yours: {listed}{more}.", hint="Give the whole id."
        )
    return found[0][0] if found else None
