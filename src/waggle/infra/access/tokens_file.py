# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens from a file with one token per line, read again when it changes.

    ann sha256:9f86d081884c7d65...  expires=2026-12-01T00:00:00Z  # her laptop

Called by `waggle.web` for every request and by `waggle token`. The file holds SHA-256 hashes, never
tokens; 256 random bits need no slow hash. A token is looked up by its hash, so the time of a lookup
reveals nothing about any token. Errors name the line and repeat none of it. `EitherVerifier`
chooses between the file and the issuer by the token's prefix.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from waggle.domain.access import METRICS, Owner, Principal, TokenRefused, Verifier, parse_owner
from waggle.domain.errors import InvalidArgument, SettingsInvalid
from waggle.infra.access.operator_file import Mark, Reloaded, read_checked, require_private

PREFIX = "wgl_"
TOKEN_BYTES = 32
MAX_BYTES = 1 << 20
ID_LENGTH = 12
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_EXPIRES = re.compile(r"expires=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)", re.ASCII)
_COMMENT = re.compile(r"(?:^|\s)#")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the token's owner, its hash in hexadecimal and its expiry."""

    owner: Owner
    digest: str
    expires: datetime | None = None

    @property
    def id(self) -> str:
        """The token's name for people; reveals nothing about the token."""
        return self.digest[:ID_LENGTH]

    def line(self) -> str:
        """Return the entry as a line of the file."""
        words = [self.owner, f"sha256:{self.digest}"]
        if self.expires is not None:
            words.append(f"expires={self.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return " ".join(words) + "\n"


def new_token() -> str:
    """Make a token: the prefix and 32 random bytes."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: str) -> str:
    """Return the hash of a token, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def parse_tokens(text: str) -> dict[str, Entry]:
    """Parse the entries, by hash. Raises SettingsInvalid with the line's number."""
    found: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = _entry(line, number)
        if entry is None:
            continue
        if entry.digest in found:
            raise _malformed(number, "an earlier line has the same token")
        found[entry.digest] = entry
    return found


def without(text: str, unwanted: str) -> str:
    """Return the text without the line whose hash is `unwanted`; other lines do not change."""
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


MAX_TOKEN = 256
_FORBIDDEN = 0o037
"""Mode bits that the file must not have: its owner may do all, its group may only read."""


class TokensFile:
    """The tokens of one file. If the file becomes invalid later, the last good tokens stay.

    A request checks the file for changes, at most once a second. Raises SettingsInvalid if the
    file cannot be used at the start.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        """`now` is the wall clock for expiry dates, `monotonic` times the checks in seconds."""
        self._now = now
        self._owners: frozenset[Owner] | None = None
        self._file = Reloaded(
            *(path, "tokens", lambda: load_tokens(path)),
            monotonic=monotonic,
            changed=self._forget_owners,
        )

    async def verify(self, token: str) -> Principal:
        """Return the token's principal. Raises TokenRefused."""
        entries = self._file.refresh()
        if len(token) > MAX_TOKEN:
            raise TokenRefused("unknown")
        hashed = digest(token)
        entry = entries.get(hashed)
        if entry is None or not hmac.compare_digest(entry.digest, hashed):
            raise TokenRefused("unknown")
        if entry.expires is not None and self._now() >= entry.expires:
            raise TokenRefused("expired")
        return Principal(entry.owner, "token")

    @property
    def owners(self) -> frozenset[Owner]:
        """The owners of the tokens, expired ones included, without METRICS."""
        entries = self._file.refresh()
        if self._owners is None:
            self._owners = frozenset(entry.owner for entry in entries.values()) - {METRICS}
        return self._owners

    def reread(self) -> str | None:
        """Read the file now. Return why it cannot be used, and the last stay, or None."""
        return self._file.reread()

    def _forget_owners(self) -> None:
        self._owners = None


def load_tokens(path: Path) -> tuple[dict[str, Entry], Mark | None]:
    """Return the entries of a file by hash, and a mark that identifies this version of it.

    Raises SettingsInvalid if it cannot be read, is open to others, or a line is malformed.
    """
    text, mark = read_tokens(path)
    return parse_tokens(text), mark


def read_tokens(path: Path) -> tuple[str, Mark]:
    """Read a tokens file; return its text and mark. Raises SettingsInvalid like `load_tokens`."""
    try:
        data, mark = read_checked(
            path, MAX_BYTES, lambda status: require_private(path, "tokens file", status, _FORBIDDEN)
        )
    except OSError as error:
        raise SettingsInvalid(
            f"The tokens file {path} cannot be read: {error.strerror}.",
            hint="Make it with 'waggle token new OWNER', as the user of the server.",
        ) from error
    if len(data) > MAX_BYTES:
        raise SettingsInvalid(f"The tokens file {path} is over {MAX_BYTES} bytes.")
    try:
        return data.decode("ascii", "strict"), mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsInvalid(f"Line {line} of the tokens file is not ASCII.") from None


class EitherVerifier:
    """The verifier that the token's prefix selects. One of the two may be None, but not both."""

    def __init__(self, tokens: Verifier | None, issued: Verifier | None) -> None:
        self._tokens = tokens
        self._issued = issued

    async def verify(self, token: str) -> Principal:
        """Return the token's principal. Raises TokenRefused, ScopeMissing or CannotVerify."""
        verifier = self._tokens if token.startswith(PREFIX) else self._issued
        if verifier is None:
            raise TokenRefused("unknown")
        return await verifier.verify(token)
