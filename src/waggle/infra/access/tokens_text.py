# SPDX-License-Identifier: Apache-2.0
"""The text of a tokens file: one token a line, as its SHA-256. Pure.

    ann sha256:9f86d081884c7d65...  expires=2026-12-01T00:00:00Z  # her laptop

Used by `tokens_file` and by `waggle token`. Tokens themselves are never written; 256 random bits
need no slow hash. Errors name the line and repeat nothing of it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from waggle.domain.access import Owner, parse_owner
from waggle.domain.errors import InvalidArgument, SettingsInvalid

PREFIX = "wgl_"
TOKEN_BYTES = 32
MAX_BYTES = 1 << 20
ID_LENGTH = 12
MAX_DAYS = 3650
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_EXPIRES = re.compile(r"expires=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)", re.ASCII)
_COMMENT = re.compile(r"(?:^|\s)#")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: whose token, its hash in hexadecimal, and until when it is good."""

    owner: Owner
    digest: str
    expires: datetime | None = None

    @property
    def id(self) -> str:
        """What people call the token by; tells nothing about it."""
        return self.digest[:ID_LENGTH]

    def line(self) -> str:
        """The entry as a line of the file."""
        words = [self.owner, f"sha256:{self.digest}"]
        if self.expires is not None:
            words.append(f"expires={self.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return " ".join(words) + "\n"


def new_token() -> str:
    """A fresh token: the prefix and 32 random bytes."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: str) -> str:
    """The hash of a token, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def parse_days(text: str) -> int:
    """How long a new token is good, such as `90d`. Raises InvalidArgument outside 1 to 3650 d."""
    match = re.fullmatch(r"([0-9]{1,4})d", text)
    if match is None or not 1 <= int(match[1]) <= MAX_DAYS:
        raise InvalidArgument(
            f"{text[:20]!r} is no time to expire.", hint=f"Use 1d to {MAX_DAYS}d, such as 90d."
        )
    return int(match[1])


def parse_tokens(text: str) -> dict[str, Entry]:
    """The entries by their hash. Raises SettingsInvalid, with the line's number."""
    found: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = _entry(line, number)
        if entry is None:
            continue
        if entry.digest in found:
            raise _malformed(number, "the same token stands on an earlier line")
        found[entry.digest] = entry
    return found


def without(text: str, unwanted: str) -> str:
    """The text without the line whose hash is `unwanted`; other lines stay as they are."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if f"sha256:{unwanted}" not in line.split())


def _entry(line: str, number: int) -> Entry | None:
    words = _COMMENT.split(line, maxsplit=1)[0].split()
    if not words:
        return None
    if len(words) not in (2, 3):
        raise _malformed(number, "expected: owner sha256:<64 hex digits> [expires=<date>]")
    hashed = _HASH.fullmatch(words[1])
    if hashed is None:
        raise _malformed(number, "the second word is not sha256:<64 lower-case hex digits>")
    try:
        owner = parse_owner(words[0])
    except InvalidArgument:
        raise _malformed(number, "the owner has characters that are not printable ASCII") from None
    return Entry(owner, hashed[1], _expiry(words[2], number) if len(words) > 2 else None)


def _expiry(word: str, number: int) -> datetime:
    match = _EXPIRES.fullmatch(word)
    try:
        if match:
            return datetime.fromisoformat(match[1])
    except ValueError:
        pass
    raise _malformed(number, "the third word is not expires=YYYY-MM-DDTHH:MM:SSZ")


def _malformed(number: int, why: str) -> SettingsInvalid:
    return SettingsInvalid(f"Line {number} of the tokens file: {why}.")
