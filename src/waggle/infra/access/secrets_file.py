# SPDX-License-Identifier: Apache-2.0
"""The operator's secrets, from a TOML file of mode 0600: values, owners, hosts and places.

    [secrets.github]
    value = "..."                # or command = ["..."], or file = "/..."
    variable = "GITHUB_TOKEN"
    hosts = ["api.git.example", "git.example"]
    owners = ["ann"]             # all without it
    places = ["headers"]         # or header:NAME, query

`secret_values` reads it again when it changes. Errors name the line and the entry and repeat no
value: the file is a secret as a whole.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from waggle.domain.access import parse_owner
from waggle.domain.errors import InvalidArgument, SettingsInvalid
from waggle.domain.secrets import Secret, SecretValue
from waggle.infra.access.operator_file import Mark, read_checked, require_private

MAX_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 256
KEPT_SECONDS: Final = 300
"""How long the value of a command is used, unless `lifetime` says."""
_OTHERS: Final = 0o077
_LINE = re.compile(r"at line ([0-9]+)")
_KEYS: Final = frozenset(
    ("value", "command", "file", "lifetime", "variable", "hosts", "owners", "places")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A secret, and where its value comes from: exactly one of the three."""

    secret: Secret
    value: SecretValue | None = None
    command: tuple[str, ...] = field(default=(), repr=False)
    file: Path | None = None
    lifetime: int = KEPT_SECONDS
    """How long a command's value is used, in seconds."""


def load_secrets(path: Path) -> tuple[dict[str, Entry], Mark]:
    """Return the entries of a file by name, and a mark of this version of it.

    Raises SettingsInvalid if it cannot be read, is open to others, or an entry is malformed.
    """
    data, mark = read_private(path, "secrets file", MAX_BYTES)
    return parse_secrets(data), mark


def read_private(path: Path, words: str, most: int) -> tuple[bytes, Mark]:
    """Read a file that only its owner can read. Raises SettingsInvalid; `words` says what it is."""
    try:
        data, mark = read_checked(
            path, most, lambda status: require_private(path, words, status, _OTHERS)
        )
    except OSError as error:
        raise SettingsInvalid(f"The {words} {path} cannot be read: {error.strerror}.") from error
    if len(data) > most:
        raise SettingsInvalid(f"The {words} {path} is over {most} bytes.")
    return data, mark


def parse_secrets(data: bytes) -> dict[str, Entry]:
    """Parse the entries, by name. Raises SettingsInvalid with the line, without any value."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsInvalid(f"Line {line} of the secrets file is not UTF-8.") from None
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # such as TOMLDecodeError
        found = _LINE.search(str(error))  # the text of the error may repeat the file's
        line = found[1] if found else len(text.splitlines())  # else it is the end
        raise SettingsInvalid(f"Line {line} of the secrets file is not valid TOML.") from None
    entries = tables.pop("secrets", {})
    if tables or not isinstance(entries, dict):
        raise SettingsInvalid("The secrets file may have only tables [secrets.NAME].")
    named = cast("dict[str, object]", entries)
    if len(named) > MAX_ENTRIES:
        raise SettingsInvalid(f"The secrets file has over {MAX_ENTRIES} secrets.")
    return {name: _entry(name, table, text) for name, table in named.items()}


def _entry(name: str, table: object, text: str) -> Entry:
    try:
        return _read(name, table)
    except InvalidArgument as error:
        lines = text.splitlines()
        heads = (n for n, line in enumerate(lines, 1) if _is_head(line, name))
        where = f"Line {next(heads, '?')} of the secrets file, {ascii(name)[:40]}"
        raise SettingsInvalid(f"{where}: {error.message}") from None


def _is_head(line: str, name: str) -> bool:
    words, name = (re.sub(r"[\s\"']", "", text) for text in (line.split("#", 1)[0], name))
    return words == f"[secrets.{name}]" or words.startswith((f"secrets.{name}", f"{name}="))


def _read(name: str, table: object) -> Entry:
    if not isinstance(table, dict):
        raise InvalidArgument("It is no table.")
    values = cast("dict[str, Any]", table)
    if values.keys() - _KEYS:
        raise InvalidArgument(f"It has a key other than {', '.join(sorted(_KEYS))}.")
    sources = values.keys() & {"value", "command", "file"}
    if len(sources) != 1:
        raise InvalidArgument("It needs exactly one of value, command and file.")
    owners = _texts(values, "owners", ("*",))
    secret = Secret(
        name,
        _text(values, "variable"),
        tuple(host.lower() for host in _texts(values, "hosts", ())),
        None if "*" in owners or not owners else frozenset(parse_owner(text) for text in owners),
        tuple(place.lower() for place in _texts(values, "places", ("headers",))),
    )
    return Entry(secret, lifetime=_lifetime(values), **_source(values))


def _source(values: Mapping[str, Any]) -> dict[str, Any]:
    if "value" in values:
        return {"value": SecretValue(_text(values, "value").encode("utf-8"))}
    if "file" in values:
        path = Path(_text(values, "file"))
        if not path.is_absolute() or "\0" in str(path):
            raise InvalidArgument("`file` is not an absolute path.")
        return {"file": path}
    command = _texts(values, "command", ())
    if not command or not command[0] or any("\0" in word for word in command):
        raise InvalidArgument("`command` is a program and its arguments.")
    return {"command": command}


def _lifetime(values: Mapping[str, Any]) -> int:
    seconds = values.get("lifetime", KEPT_SECONDS)
    if not isinstance(seconds, int) or not 1 <= seconds <= 86400:  # a day
        raise InvalidArgument("`lifetime` is 1 to 86400 seconds.")
    return seconds


def _text(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key)
    if not isinstance(found, str):
        raise InvalidArgument(f"`{key}` must be a text.")
    return found


def _texts(values: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    found = values.get(key, default)
    if not isinstance(found, list | tuple):
        raise InvalidArgument(f"`{key}` must be a list of texts.")
    items = cast("list[object] | tuple[object, ...]", found)
    if not all(isinstance(item, str) for item in items):
        raise InvalidArgument(f"`{key}` must be a list of texts.")
    return cast("tuple[str, ...]", tuple(items))
