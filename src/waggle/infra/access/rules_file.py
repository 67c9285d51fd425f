# SPDX-License-Identifier: Apache-2.0
"""Named network rules from a TOML file, read again when it changes.

    [rules]
    git = ["git.example.org", "*.git.example.org:22"]
    internal = ["10.1.0.0/16:5432", "deny 10.1.9.0/24"]

`operator_rules` has the files of this form. Errors name file and place, and repeat a rule only as
`domain.network.rules` does. Knows no settings, and not what the names mean.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from waggle.domain.errors import InvalidArgument, SettingsInvalid
from waggle.domain.network.rules import Rule, parse_rule
from waggle.infra.access.operator_file import Mark, Reloaded, is_ours, read_checked
from waggle.infra.shared.files import atomic_write
from waggle.shipped import document

MAX_BYTES: Final = 1 << 20
MAX_RULES: Final = 10_000
_FORBIDDEN: Final = 0o022
"""Mode bits that a file of rules must not have: others could open the network."""

RuleSets = Mapping[str, tuple[Rule, ...]]
NOTHING: Final[RuleSets] = MappingProxyType({})


class Bounds(NamedTuple):
    """The most that a file of rules may have."""

    size: int = MAX_BYTES
    rules: int = MAX_RULES
    is_by_set: bool = False
    """Whether each set may have so many rules, not all together."""


_USUAL: Final = Bounds()


def parse_rule_sets(
    text: str, table: str, parse_name: Callable[[str], str], bounds: Bounds
) -> RuleSets:
    """Return the rules of the file's only table by name. Raises SettingsInvalid with the place."""
    try:
        document: dict[str, object] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # such as TOMLDecodeError
        raise SettingsInvalid(f"it is not TOML: {error or 'nested too deeply'}") from None
    for other in document.keys() - {table}:
        raise SettingsInvalid(f"{other[:40]!a}: only the table [{table}] is known")
    named = document.get(table, {})
    if not isinstance(named, dict):
        raise SettingsInvalid(f"{table} is no table of lists")
    found: dict[str, tuple[Rule, ...]] = {}
    count = 0
    for name, entries in cast("dict[str, object]", named).items():
        place = f"{table}.{ascii(name[:64])[1:-1]}"
        try:
            key = parse_name(name)
        except InvalidArgument as error:
            raise SettingsInvalid(f"{place}: {error.message}") from None
        if not isinstance(entries, list):
            raise SettingsInvalid(f"{place} is no list of rules")
        rules = cast("list[object]", entries)
        count = len(rules) + (0 if bounds.is_by_set else count)
        if count > bounds.rules:
            raise SettingsInvalid(f"{place}: there are over {bounds.rules} rules")
        read = [_rule(place, number, entry) for number, entry in enumerate(rules, 1)]
        found[key] = tuple(dict.fromkeys(read))
    return MappingProxyType(found)


def _rule(place: str, number: int, entry: object) -> Rule:
    if not isinstance(entry, str):
        raise SettingsInvalid(f"{place}, entry {number}: it is no text")
    if entry.startswith("@"):
        raise SettingsInvalid(f"{place}, entry {number}: a set cannot name another set")
    try:
        return parse_rule(entry)
    except InvalidArgument as error:
        raise SettingsInvalid(f"{place}, entry {number}: {error.message}") from None


class RulesFile:
    """The rules of one file. If it becomes unusable later, the last good rules stay.

    Looks for changes when it is used, at most once a second.
    """

    def __init__(
        self,
        path: Path,
        table: str,
        parse_name: Callable[[str], str],
        *,
        monotonic: Callable[[], float],
        required: Collection[str] = (),
        may_miss: bool = False,
        bounds: Bounds = _USUAL,
    ) -> None:
        """Load it. `required` names must be in it; with `may_miss` there may be no file.

        Raises SettingsInvalid if it cannot be used.
        """
        self.path = path
        self._table = table
        self._parse_name = parse_name
        self._required = frozenset(required)
        self._may_miss = may_miss
        self.bounds = bounds
        self._file = Reloaded(path, "network_rules", self._load, monotonic=monotonic)

    @property
    def problem(self) -> str | None:
        """Why the file as it is now is not in use, if that is so."""
        return self._file.problem

    @property
    def version(self) -> int:
        """A number that changes with the rules."""
        self._file.refresh()
        return self._file.version

    @property
    def sets(self) -> RuleSets:
        """The rules by name."""
        return self._file.refresh()

    def reread(self) -> str | None:
        """Read the file now. Return why it cannot be used, and the last stay, or None."""
        return self._file.reread()

    def replace(self, sets: RuleSets, data: bytes) -> None:
        """Use these rules, and write them as `data`. Raises OSError. May run in a thread."""
        atomic_write(self.path, data, 0o600)
        self._file.replace(sets)

    def _load(self) -> tuple[RuleSets, Mark | None]:
        try:
            text, mark = _read(self.path, self.bounds.size)
        except FileNotFoundError as error:
            if not self._may_miss:
                raise _unusable(self.path, error.strerror) from error
            return NOTHING, None
        except OSError as error:
            raise _unusable(self.path, error.strerror) from error
        try:
            sets = parse_rule_sets(text, self._table, self._parse_name, self.bounds)
        except SettingsInvalid as error:
            raise _unusable(self.path, error.message) from None
        if missing := sorted(self._required - sets.keys()):
            raise _unusable(
                self.path,
                f"it has no {' and no '.join(missing)}, which WAGGLE_DEFAULT_NETWORK or "
                "WAGGLE_MAX_NETWORK name",
            )
        return sets, mark


def _unusable(path: Path, why: object) -> SettingsInvalid:
    return SettingsInvalid(
        f"The network rules in {path} cannot be used: {str(why).removesuffix('.')}.",
        hint='A rule is such as "example.org", "*.example.org:443" or "deny ads.example.org"; '
        f"{document('network.md')} describes the file.",
    )


def _read(path: Path, most: int) -> tuple[str, Mark]:
    def check(status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(path, "it is no regular file")
        if status.st_mode & _FORBIDDEN or not is_ours(status):
            raise _unusable(path, "users other than root and the server's may write it")

    data, mark = read_checked(path, most, check)
    if len(data) > most:
        raise _unusable(path, f"it is over {most} bytes")
    try:
        return data.decode("utf-8"), mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unusable(path, f"line {line} is not UTF-8") from None
