# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens from a file, read again when it changes.

Built by the composition root, asked by `waggle.web` for every request. A token is looked up by its
SHA-256, so the time that takes says nothing about any token. Knows no HTTP and no settings.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from waggle.domain.access import METRICS, Identity, Owner, TokenRefused
from waggle.domain.errors import SettingsInvalid
from waggle.infra.access.tokens_text import MAX_BYTES, Entry, digest, parse_tokens

log = structlog.get_logger(__name__)

CHECK_SECONDS = 1.0
MAX_TOKEN = 256
_FORBIDDEN = 0o037
"""What nobody but the owner may do; its group may read."""

_Mark = tuple[int, int, int, int, int]


class TokensFile:
    """The tokens of one file. A file that breaks later keeps the last good tokens.

    It is looked at again at most once a second, by the request that comes then. Raises
    SettingsInvalid when it cannot be used at the start.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        """`now` is the wall clock of expiry dates, `monotonic` counts seconds between checks."""
        self._path = path
        self._now = now
        self._monotonic = monotonic
        self._entries, self._mark = load_tokens(path)
        self._owners: frozenset[Owner] | None = None
        self._checked = monotonic()

    async def verify(self, token: str) -> Identity:
        """Who has this token. Raises TokenRefused."""
        self._refresh()
        if len(token) > MAX_TOKEN:
            raise TokenRefused("unknown")
        hashed = digest(token)
        entry = self._entries.get(hashed)
        if entry is None or not hmac.compare_digest(entry.digest, hashed):
            raise TokenRefused("unknown")
        if entry.expires is not None and self._now() >= entry.expires:
            raise TokenRefused("expired")
        return Identity(entry.owner, "token")

    @property
    def owners(self) -> frozenset[Owner]:
        """Whose environments its tokens open, expired ones included."""
        self._refresh()
        if self._owners is None:
            self._owners = frozenset(each.owner for each in self._entries.values()) - {METRICS}
        return self._owners

    def _refresh(self) -> None:
        moment = self._monotonic()
        if moment - self._checked < CHECK_SECONDS:
            return
        self._checked = moment
        try:
            mark = _mark(self._path.stat())
        except OSError as error:
            mark, why = None, error.strerror
        else:
            why = None
        if mark == self._mark:
            return
        try:
            if mark is None:
                raise SettingsInvalid(f"{self._path} cannot be read: {why}.")
            self._entries, self._mark = load_tokens(self._path)
            self._owners = None
        except SettingsInvalid as error:
            self._mark = mark
            log.error("tokens_not_reloaded", why=error.message, kept=len(self._entries))
        else:
            log.info("tokens_reloaded", tokens=len(self._entries))


def load_tokens(path: Path) -> tuple[dict[str, Entry], _Mark | None]:
    """The entries of a file by hash, and what to recognise this version of it by.

    Raises SettingsInvalid when it cannot be read, others may, or a line is malformed.
    """
    text, mark = read_tokens(path)
    return parse_tokens(text), mark


def read_tokens(path: Path) -> tuple[str, _Mark]:
    """The text of a tokens file. Raises SettingsInvalid as `load_tokens` does."""
    try:
        # Not blocking: a named pipe is told below, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            _check(path, status)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsInvalid(
            f"The tokens file {path} cannot be read: {error.strerror}.",
            hint="Make it with 'waggle token new OWNER', as the user of the server.",
        ) from error
    if len(data) > MAX_BYTES:
        raise SettingsInvalid(f"The tokens file {path} is over {MAX_BYTES} bytes.")
    try:
        return data.decode("ascii", "strict"), _mark(status)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsInvalid(f"Line {line} of the tokens file is not ASCII.") from None


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SettingsInvalid(f"The tokens file {path} is no regular file.")
    if status.st_mode & _FORBIDDEN:
        raise SettingsInvalid(
            f"The tokens file {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"Run: chmod 600 {path}",
        )
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsInvalid(
            f"The tokens file {path} belongs to another user.",
            hint="It must be root's or that of the user of the server.",
        )


def _mark(status: os.stat_result) -> _Mark:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
