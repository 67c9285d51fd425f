# SPDX-License-Identifier: Apache-2.0
"""Who calls: owners, identities, and why a token is refused.

An owner is whom environments belong to. Made from what `waggle.infra.access` has verified; services
compare owners and know no tokens. Nothing here ever holds a token.

What one owner may hold of what all owners share. Pure.

Calls that a client may repeat without doing the work twice: the key, and what is kept of one.

As the draft of the IETF's Idempotency-Key header has it: a key belongs to one call with one set of
arguments; with others it is refused.

What a client calls its environments and snapshots: by id, by name, or by the start of the id.

Pure. Given only what the caller owns, so that nothing is told of what others have.
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


SeveralOwners = Callable[[], bool]
"""Whether more than one owner may call now: tokens come and go while a server runs."""


def one_owner() -> bool:
    """The `SeveralOwners` of a server on which everybody is the same owner."""
    return False


def share_of(whole: int, *, several: bool) -> int:
    """What one owner may hold of a whole: all of it, or half where others may want some, too.

    At least 1, so that everybody may have something; half of an odd number is rounded up.
    """
    return max(1, whole - whole // 2) if several else whole


@dataclass(frozen=True, slots=True)
class Quota:
    """How many of one thing one owner may hold, and what he does who holds them all.

    `what` is plural, `setting` the operator's variable for it, `next_step` a sentence.
    """

    what: str
    most: int
    setting: str
    next_step: str

    def require(self, owner: str, held: int, more: int = 1) -> None:
        """Raise QuotaExceeded unless `more` fit beside those that the owner holds."""
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
"""Of results, which may carry images."""
MAX_KEY = 128
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """One call: whose, under which key, and the digest of its tool and arguments."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KnownCall:
    """What is on record of a call: its digest, and its result once there was one."""

    fingerprint: str
    result: str | None


def parse_key(text: str) -> str:
    """A usable key. Raises InvalidArgument."""
    if not _KEY.fullmatch(text):
        raise InvalidArgument(
            f"idempotency_key must be 1 to {MAX_KEY} printable ASCII characters without spaces.",
            hint="A fresh UUID for each thing to be done once is a good key.",
        )
    return text


class CallStore(Protocol):
    """Remembers keyed calls across restarts. Every call is durable when it returns."""

    async def find(self, call: KeyedCall) -> KnownCall | None:
        """What is on record under the call's owner and key; None when that is too old."""
        ...

    async def begin(self, call: KeyedCall) -> None:
        """Put it on record as begun. Forgets what is too old or too much."""
        ...

    async def finish(self, call: KeyedCall, result: str) -> None:
        """Keep its result, and forget the owner's oldest results while all are too much."""
        ...

    async def forget(self, call: KeyedCall) -> None:
        """Take it off the record. Idempotent."""
        ...


MIN_SHORT = 6
"""Characters of an id that are enough, when only one begins so."""
_MAX_TOLD = 5
_REFERENCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SHORT = re.compile(rf"[0-9a-f-]{{{MIN_SHORT},35}}")


def parse_reference_text(text: str, parameter: str, maker: str) -> str:
    """A text that an id or a name may be; `maker` hands out what is called `parameter`.

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
    """The one id of `known`, pairs of id and name, that is meant; None when there is none.

    A whole id goes before names, a name before the start of an id. Raises InvalidArgument, with the
    candidates, when several fit.
    """
    pairs = [*known]
    wanted = reference.lower()
    if any(each == wanted for each, _ in pairs):
        return wanted
    found = [pair for pair in pairs if pair[1] == reference]
    if not found and _SHORT.fullmatch(wanted):
        found = [pair for pair in pairs if pair[0].startswith(wanted)]
    if len(found) > 1:
        told = ", ".join(f"{each} ({name})" for each, name in found[:_MAX_TOLD])
        more = f" and {len(found) - _MAX_TOLD} more" if len(found) > _MAX_TOLD else ""
        raise InvalidArgument(
            f"{reference!r} means {len(found)} of yours: {told}{more}.", hint="Give the whole id."
        )
    return found[0][0] if found else None
