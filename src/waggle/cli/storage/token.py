# SPDX-License-Identifier: Apache-2.0
"""`waggle token new|ls|rm`: on the tokens file alone. A running server notices the changes."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from waggle.cli import ids
from waggle.cli.durations import parse_option
from waggle.cli.progress import print_json, print_table, say
from waggle.config import load
from waggle.domain.access import parse_owner
from waggle.domain.errors import InvalidArgument, SetupIncomplete
from waggle.infra.access.tokens_file import (
    MAX_BYTES,
    Entry,
    digest,
    new_token,
    parse_tokens,
    read_tokens,
    without,
)
from waggle.infra.shared.disk_room import full, is_full
from waggle.infra.shared.files import FileLock, atomic_write

_LOCK_SECONDS = 10.0
_MOST_DAYS = 3650


def new(owner: str, expires: str | None) -> None:
    """Make a token, store its hash, and print it, once only."""
    name = parse_owner(owner)
    if owner.startswith("#"):
        raise InvalidArgument("A line that begins with '#' would be a comment.")
    until = None if expires is None else datetime.now(UTC) + _lifetime(expires)
    token = new_token()
    entry = Entry(name, digest(token), until)
    path = _path()
    with _changing(path) as text:
        lines = text if not text or text.endswith("\n") else text + "\n"
        _write(path, lines + entry.line())
    sys.stdout.write(token + "\n")
    valid = f", valid until {_shown(until)}" if until else ""
    say(f"Token {entry.id} of {entry.owner}{valid}; it is not shown again.")


def _lifetime(text: str) -> timedelta:
    return parse_option("--expires", text, timedelta(minutes=1), timedelta(days=_MOST_DAYS))


def ls(*, as_json: bool) -> None:
    """Print the tokens as a table, or as a JSON list: ids, owners and dates, no secrets."""
    path = _path()
    entries = parse_tokens(read_tokens(path)[0]).values() if path.exists() else ()
    rows = [
        {"id": entry.id, "owner": str(entry.owner), "expires": _shown(entry.expires)}
        for entry in entries
    ]
    if as_json:
        print_json(rows)
        return
    cells = [(row["id"] or "", row["owner"] or "", row["expires"] or "never") for row in rows]
    print_table(("id", "owner", "expires"), cells, "No tokens.")


def rm(wanted: Sequence[str]) -> None:
    """Remove tokens by the ids that `ls` shows, all or none, and print the ids."""
    path = _path()
    ids.require("token", wanted, wanted)
    with _changing(path) as text:
        known = {entry.id: entry for entry in parse_tokens(text).values()}
        ids.require("token", wanted, known)
        left = text
        for token_id in wanted:
            left = without(left, known[token_id].digest)
        _write(path, left)
    for token_id in wanted:
        sys.stdout.write(f"{token_id}\n")


def _path() -> Path:
    path = load().auth_tokens_file
    if path is None:
        raise SetupIncomplete(
            "There is no tokens file.",
            hint="Set WAGGLE_AUTH_TOKENS_FILE, for this command and for the server.",
        )
    return path


@contextlib.contextmanager
def _changing(path: Path) -> Generator[str]:
    """Lock the file against other changes, and yield its text; empty if there is no file."""
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
            text = read_tokens(path)[0] if path.exists() else ""
            parse_tokens(text)  # raises: a broken file must be repaired by hand first
            yield text
    except OSError as error:
        if is_full(error):
            raise full(error, str(path.parent)) from error
        raise SetupIncomplete(
            f"{error.filename or path} cannot be written: {error.strerror}.",
            hint="Run this as the user of the server; the directory must exist.",
        ) from error


def _write(path: Path, text: str) -> None:
    """Replace the file, keeping its mode and group. A link to it stays a link."""
    data = text.encode("ascii")
    if len(data) > MAX_BYTES:
        raise InvalidArgument(f"The tokens file would be over {MAX_BYTES} bytes.")
    path = path.resolve()
    before = path.stat() if path.exists() else None
    atomic_write(path, data, 0o600 if before is None else stat.S_IMODE(before.st_mode))
    if before is not None and before.st_gid != path.stat().st_gid:
        os.chown(path, -1, before.st_gid)


def _shown(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
