# SPDX-License-Identifier: Apache-2.0
"""A TOML table whose keys are taken out one by one, each checked, so that unknown ones are left.

Used by `definition`; knows nothing of images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from waggle.domain.errors import InvalidArgument

T = TypeVar("T")

Check = Callable[[str], object]


def no_nul(text: str) -> bool:
    """Whether the text can be an argument or a path."""
    return "\0" not in text


class Table:
    """Takes keys out of a TOML table, so that unknown ones are left over and reported."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = dict(values)
        self.where = where

    def finish(self) -> None:
        """Refuse what was not taken."""
        if self._values:
            raise InvalidArgument(f"{self.where}: unknown key '{min(self._values)}'.")

    def _fail(self, key: str) -> InvalidArgument:
        return InvalidArgument(f"{self.where}: '{key}' is missing or not valid.")

    def _take(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self._values.pop(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._fail(key)
        return value

    def has(self, key: str) -> bool:
        """Whether the key is there and was not taken yet."""
        return key in self._values

    def text(self, key: str, check: Check) -> str:
        """A string that passes `check`."""
        value = self._take(key, str)
        if not check(value):
            raise self._fail(key)
        return value

    def integer(self, key: str) -> int:
        """A positive number of 32 bits."""
        value = self._take(key, int)
        if not 0 < value < 1 << 32:
            raise self._fail(key)
        return value

    def _list(self, key: str) -> list[object]:
        return cast("list[object]", self._take(key, list, []))

    def _strings(self, items: object, key: str, check: Check) -> tuple[str, ...]:
        values = cast("list[object]", items) if isinstance(items, list) else [None]
        texts = tuple(item for item in values if isinstance(item, str) and check(item))
        if len(texts) != len(values):
            raise self._fail(key)
        return texts

    def texts(self, key: str, check: Check) -> tuple[str, ...]:
        """A list of strings that pass `check`; empty when it is missing."""
        return self._strings(self._list(key), key, check)

    def commands(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of argv lists; empty when it is missing."""
        return tuple(self._strings(item, key, no_nul) for item in self._list(key))

    def mapping(self, key: str, check: Check, *, key_check: Check = no_nul) -> Mapping[str, str]:
        """A table of strings whose names and values pass; empty when it is missing."""
        table = cast("dict[str, object]", self._take(key, dict, {}))
        names = self._strings(list(table), key, key_check)
        return dict(zip(names, self._strings([*table.values()], key, check), strict=True))

    def tables(self, key: str) -> list[Table]:
        """An array of tables; empty when it is missing."""
        items = self._list(key)
        found = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
        if len(found) != len(items):
            raise self._fail(key)
        return [Table(item, f"{self.where}: {key}[{n}]") for n, item in enumerate(found)]
