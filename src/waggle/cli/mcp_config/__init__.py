# SPDX-License-Identifier: Apache-2.0
"""`waggle mcp-config`: print or write the entry of waggle in a client's configuration."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from waggle.cli.mcp_config.clients import CLIENTS, Base, Client, Local, Remote, client_named
from waggle.cli.mcp_config.merge import CannotMerge, merged
from waggle.cli.progress import say
from waggle.config import PREFIX, is_secret, load, process_environment
from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.infra.shared.files import atomic_write

NAME = "waggle"
_MOST_BYTES = 16 << 20


class NotWritten(WaggleError):
    """A client's file was left unchanged."""

    code = "not_written"


def list_clients() -> None:
    """List the clients and where they keep their servers."""
    base = directories(process_environment(), sys.platform)
    for client in CLIENTS:
        where = client.file(base) if client.file else "printed only"
        sys.stdout.write(f"{client.name:<15} {client.title:<19} {where}\n")


def mcp_config(
    name: str, *, http: str | None, token_env: str | None, write: bool, file: Path | None
) -> None:
    """Print an entry, or merge it into the client's file.

    Raises InvalidArgument for options that do not fit, and NotWritten, with the file unchanged,
    when the entry cannot be added without losing something or the file cannot be written.
    """
    client = client_named(name)
    environ = process_environment()
    entry = _entry(client, environ, http, token_env)
    text = merged(client.form, "", client.section, NAME, entry)
    own = client.file(directories(environ, sys.platform)) if client.file else None
    path = file or own
    if not write:
        if path is not None:
            say(f"{client.title} reads {path}; with --write the entry is merged into it.")
        sys.stdout.write(text)
        return
    if path is None:
        raise InvalidArgument(f"{client.name} has no file of its own: name one with --file.")
    try:
        changed = _write(path, client, entry)
    except (CannotMerge, OSError) as error:
        why = error.message if isinstance(error, CannotMerge) else f"{error.strerror}."
        raise NotWritten(
            f"{path} was not changed. {why}", hint=f"Add this to it yourself:\n{text}"
        ) from error
    say(f"{client.title}: {'written' if changed else 'no change needed'}. {client.then}")
    sys.stdout.write(f"{path}\n")


def _entry(
    client: Client, environ: Mapping[str, str], http: str | None, token_env: str | None
) -> dict[str, object]:
    if token_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", token_env):
        raise InvalidArgument("--token-env takes the name of a variable, not the token itself.")
    if http is None:
        if token_env is not None:
            raise InvalidArgument("--token-env belongs to --http: a stdio server needs no token.")
        return client.local(local_server(environ))
    parts = urlsplit(http)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InvalidArgument(
            "--http takes the URL of a running server, without user or password.",
            hint="Such as http://127.0.0.1:8080/mcp: 'waggle serve' logs it.",
        )
    if client.remote is None:
        raise InvalidArgument(
            f"{client.title} takes URLs in its settings (Connectors), not from its file.",
            hint="Leave out --http for a server that it starts itself.",
        )
    return client.remote(Remote(http, token_env))


def local_server(environ: Mapping[str, str]) -> Local:
    """Return how a client starts this installation, with the current settings except secrets.

    Raises SettingsInvalid.
    """
    load(environ)  # report bad settings now: a client would only show that the start failed
    program = Path(sys.argv[0])
    given = {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(PREFIX) and value and not is_secret(name)
    }
    if program.name == NAME and program.is_file():
        return Local(str(program.absolute()), ("serve", "--stdio"), given)
    return Local(sys.executable, ("-m", NAME, "serve", "--stdio"), given)


def directories(environ: Mapping[str, str], platform: str) -> Base:
    """Return the directories in which this user's clients keep their files."""
    home = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        return Base(home, home / "Library" / "Application Support", environ)
    given = environ.get("XDG_CONFIG_HOME", "")
    return Base(home, Path(given) if given.startswith("/") else home / ".config", environ)


def _write(path: Path, client: Client, entry: dict[str, object]) -> bool:
    """Merge and replace the file, keeping its permissions and owner. Return whether it changed.

    Raises CannotMerge and OSError.
    """
    path = path.resolve()  # a link stays a link
    before, mode, owner = "", 0o600, None
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        if not path.is_file() or status.st_size > _MOST_BYTES:
            raise CannotMerge("It is no file, or too large for a configuration.")
        mode, owner = status.st_mode & 0o777, (status.st_uid, status.st_gid)
        try:
            before = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise CannotMerge("It is not text in UTF-8.") from error
    after = merged(client.form, before, client.section, NAME, entry)
    if after == before:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, after.encode(), mode)
    if owner is not None and owner != (os.geteuid(), os.getegid()):
        os.chown(path, *owner)
    return True
