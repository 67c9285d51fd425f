# SPDX-License-Identifier: Apache-2.0
"""`images/NAME/image.toml` as a validated, frozen value. Runs nothing.

Called by `build` and the CLI. A definition is part of waggle's source and as trusted as code; the
checks name mistakes early and do not defend against a hostile author.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar, cast

from waggle.domain.errors import ImageMissing, InvalidArgument

T = TypeVar("T")

Check = Callable[[str], object]


def no_nul(text: str) -> bool:
    """Return whether the text can be an argument or a path."""
    return "\0" not in text


class Table:
    """A TOML table whose keys are taken out one by one, so that unknown ones are left to report."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = dict(values)
        self.where = where

    def finish(self) -> None:
        """Raise InvalidArgument if a key was not taken."""
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
        """Return whether the key exists and was not taken yet."""
        return key in self._values

    def text(self, key: str, check: Check) -> str:
        """Take a string that passes `check`."""
        value = self._take(key, str)
        if not check(value):
            raise self._fail(key)
        return value

    def integer(self, key: str) -> int:
        """Take a positive 32-bit number."""
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
        """Take a list of strings that pass `check`; empty when missing."""
        return self._strings(self._list(key), key, check)

    def commands(self, key: str) -> tuple[tuple[str, ...], ...]:
        """Take a list of argv lists; empty when missing."""
        return tuple(self._strings(item, key, no_nul) for item in self._list(key))

    def mapping(self, key: str, check: Check, *, key_check: Check = no_nul) -> Mapping[str, str]:
        """Take a table of strings whose names and values pass the checks; empty when missing."""
        table = cast("dict[str, object]", self._take(key, dict, {}))
        names = self._strings(list(table), key, key_check)
        return dict(zip(names, self._strings([*table.values()], key, check), strict=True))

    def tables(self, key: str) -> list[Table]:
        """Take an array of tables; empty when missing."""
        items = self._list(key)
        found = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
        if len(found) != len(items):
            raise self._fail(key)
        return [Table(item, f"{self.where}: {key}[{n}]") for n, item in enumerate(found)]


VARIANTS = frozenset(("extract", "custom", "essential", "apt", "minbase"))

_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_ARCHIVE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[a-z][a-z0-9-]*\.txt")
_MODE = re.compile(r"[0-7]{4}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True)
class Archive:
    """A wheel or npm package, pinned by digest, parts of which are copied into the image."""

    name: str
    version: str
    sha256: tuple[str, ...]
    """Accepted digests, one per platform."""
    unpack: Mapping[str, str]
    """Maps a file or directory (ending in `/`) inside the archive to a path in the image."""


@dataclass(frozen=True, slots=True)
class ImageDefinition:
    """One image. `epoch` (seconds) is its creation date and the newest time of any file in it."""

    name: str
    suite: str
    variant: str
    epoch: int
    base: ImageDefinition | None = None
    """The image below this one: its layers come first, its environment variables are inherited."""
    packages: tuple[str, ...] = ()
    wheels: tuple[Archive, ...] = ()
    npm: tuple[Archive, ...] = ()
    """Fetched with the npm that the first wheel contains."""
    requirements: str = ""
    """A requirements file of wheels with digests, which pip installs into the tree."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    cmd: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    """Shell patterns of paths to leave out; `**` crosses directories."""
    directories: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    modes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Octal permission bits of paths with unusual permissions."""
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    warm_up: tuple[tuple[str, ...], ...] = ()
    """Commands run in order inside the tree once all packages are installed."""


def _nothing(name: str) -> NoReturn:
    raise InvalidArgument(f"There is no {name[:40]!r} here.")


def load_definition(directory: Path, name: str) -> ImageDefinition:
    """Read `directory/name/image.toml`. Raises ImageMissing or InvalidArgument."""
    names = sorted(path.parent.name for path in directory.glob("*/image.toml"))
    if name not in names:
        listed = ", ".join(names) or "none"
        raise ImageMissing(f"There is no definition of an image '{name[:40]}'.",
                           hint=f"There are: {listed}.")  # fmt: skip
    here = directory / name

    def base(other: str) -> ImageDefinition:
        if other == name:
            raise InvalidArgument(f"images/{name}/image.toml: 'base' is the image itself.")
        return load_definition(directory, other)

    return parse_definition(
        name,
        (here / "image.toml").read_text("utf-8"),
        base=base,
        beside=lambda file: (here / file).read_text("utf-8"),
    )


def parse_definition(
    name: str,
    text: str,
    *,
    base: Callable[[str], ImageDefinition] = _nothing,
    beside: Callable[[str], str] = _nothing,
) -> ImageDefinition:
    """Validate a definition. Raises InvalidArgument that names the faulty key.

    `base` returns the definition with a given name, `beside` the text of a file in the same
    directory.
    """
    try:
        table = Table(tomllib.loads(text), f"images/{name}/image.toml")
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"images/{name}/image.toml is not TOML: {error}.") from error
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name[:40]!r} is not a name for an image definition.")
    below = base(table.text("base", _NAME.fullmatch)) if table.has("base") else None
    pins = table.text("requirements", _FILE.fullmatch) if table.has("requirements") else ""
    definition = ImageDefinition(
        name=name,
        suite=below.suite if below else table.text("suite", _SUITE.fullmatch),
        variant=below.variant if below else table.text("variant", VARIANTS.__contains__),
        epoch=table.integer("epoch"),
        base=below,
        packages=table.texts("packages", _PACKAGE.fullmatch),
        wheels=tuple(_archive(item) for item in table.tables("wheels")),
        npm=tuple(_archive(item) for item in table.tables("npm")),
        requirements=beside(pins) if pins else "",
        env={**(below.env if below else {}), **table.mapping("env", no_nul)},
        labels=table.mapping("labels", no_nul),
        cmd=table.texts("cmd", no_nul),
        drop=table.texts("drop", _absolute),
        directories=table.texts("directories", _absolute),
        files=table.mapping("files", no_nul, key_check=_absolute),
        modes=table.mapping("modes", _MODE.fullmatch, key_check=_absolute),
        links=table.mapping("links", no_nul, key_check=_absolute),
        warm_up=table.commands("warm_up"),
    )
    table.finish()
    return definition


def _archive(table: Table) -> Archive:
    archive = Archive(
        name=table.text("name", _ARCHIVE.fullmatch),
        version=table.text("version", _ARCHIVE.fullmatch),
        sha256=table.texts("sha256", _SHA256.fullmatch),
        unpack=table.mapping("unpack", _absolute),
    )
    if not archive.sha256 or not archive.unpack:
        raise InvalidArgument(f"{table.where}: an archive needs sha256 and unpack.")
    table.finish()
    return archive


def _absolute(text: str) -> bool:
    return text.startswith("/") and ".." not in text.split("/") and no_nul(text)
