# SPDX-License-Identifier: Apache-2.0
"""User names and passwords for registries, from the files that other tools keep them in.

Reads auth.json as containers-auth.json(5) describes it and Docker's config.json: `auths` by
registry or by registry/path (the most specific entry counts), `credHelpers` and `credsStore`.
Called by `auth`, once per registry and pull. Secrets are in no repr, message or log line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from waggle.domain.errors import SettingsInvalid
from waggle.infra.oci.registry.helper import from_helper

_MAX_FILE = 1 << 20

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to one registry: a user with a password, an identity token or a ready token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """Given to the token service instead of a password (OAuth 2 refresh token)."""
    registry_token: str = field(default="", repr=False)
    """Given to the registry as it is."""

    def basic(self) -> str:
        """Return the value of an Authorization header with user name and password."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


async def find_credentials(files: tuple[Path, ...], name: str) -> Credentials | None:
    """Find the entry for `registry/repository`; None when no file has one.

    Files that are not there are passed over. Raises SettingsInvalid when one cannot be read or is
    malformed, ImageUnavailable when a credential helper fails.
    """
    for path in files:
        document = await asyncio.to_thread(_read, path)
        found = await _in_file(document, name, path)
        if found is not None:
            return found
    return None


def _read(path: Path) -> Json:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise SettingsInvalid(f"The credentials in {path} cannot be read: {reason}.") from None
    try:
        value: object = json.loads(data[:_MAX_FILE]) if len(data) <= _MAX_FILE else None
    except (ValueError, RecursionError):
        value = None  # `from` would carry the file's text along
    if not isinstance(value, dict):
        raise SettingsInvalid(f"The credentials in {path} are not a JSON object.")
    return cast("Json", value)


async def _in_file(document: Json, name: str, path: Path) -> Credentials | None:
    helpers, entries = _object(document.get("credHelpers")), _by_name(document)
    for key in scopes_of(name):
        helper = helpers.get(key)
        found = None
        if isinstance(helper, str) and helper:
            found = _from_pair(await from_helper(helper, key))
        if found is None and key in entries:
            found = _from_entry(entries[key], path)
        if found is not None:
            return found
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        return _from_pair(await from_helper(store, scopes_of(name)[-1]))
    return None


def scopes_of(name: str) -> list[str]:
    """Return `host/a/b`, `host/a`, `host` for `host/a/b`: the keys that may hold credentials."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _by_name(document: Json) -> dict[str, Json]:
    """Return the entries of `auths` by name; Docker also writes names as URLs of its API."""
    entries: dict[str, Json] = {}
    for key, value in _object(document.get("auths")).items():
        entries.setdefault(_normal(key), _object(value))
    # A name as it is spelt in references comes before its spelling as a URL.
    entries |= {key: _object(v) for key, v in _object(document.get("auths")).items()}
    return entries


def _normal(key: str) -> str:
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, version = bare.partition("/")
    return host if version in {"v1", "v2"} else bare


def _from_entry(entry: Json, path: Path) -> Credentials | None:
    """Read one entry; None for the empty ones that Docker keeps beside a credsStore."""
    token, ready = _text(entry.get("identitytoken")), _text(entry.get("registrytoken"))
    user, password = _text(entry.get("username")), _text(entry.get("password"))
    encoded = _text(entry.get("auth"))
    if encoded:
        try:
            plain = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            plain = ""
        user, colon, password = plain.partition(":")
        if not colon:
            raise SettingsInvalid(
                f"An entry 'auth' in {path} is not the Base64 of user:password."
            ) from None
        password = password.rstrip("\0")
    if not (user or token or ready):
        return None
    return Credentials(user, password, token, ready)


def _from_pair(pair: tuple[str, str] | None) -> Credentials | None:
    if pair is None:
        return None
    user, secret = pair
    if user == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(user, secret)


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
