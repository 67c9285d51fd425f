# SPDX-License-Identifier: Apache-2.0
"""Results of the guest agent as lines and tables for people. `--json` has everything.

All texts are the guest's, so control characters are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, cast

from pydantic import BaseModel

from waggle.cli.progress import print_table

_TIMES: Final = ("time", "modified", "since")
_SIZES: Final = ("size", "written")
_HIDDEN: Final = ("raw_name",)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_WIDTH: Final = 160
_MAX_YEAR: Final = 253_402_300_799
"""The last second of the year 9999."""


def show(result: BaseModel) -> None:
    """Print a result on stdout."""
    fields = [*_flat(result, "")]
    if not fields:
        sys.stdout.write("done\n")
    for name, value in fields:
        if isinstance(value, bytes):
            sys.stdout.writelines(_block(name, value))
        elif not _is_table(value):
            sys.stdout.write(f"{name}: {_shown(name, value)}\n")
    for name, value in fields:
        if _is_table(value):
            sys.stdout.write(f"\n{name}:\n")
            _print_rows(cast("list[BaseModel]", value))


def _flat(model: BaseModel, prefix: str) -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value: object = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_table(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return isinstance(cast("list[object]", value)[0], BaseModel)


def _print_rows(rows: list[BaseModel]) -> None:
    names = [name for name in type(rows[0]).model_fields if name not in _HIDDEN]
    shown = [[_shown(name, getattr(row, name)) for name in names] for row in rows]
    print_table([name.replace("_", " ") for name in names], shown, "", _WIDTH)


def _block(name: str, data: bytes) -> Iterator[str]:
    yield f"{name}:\n"
    for line in data.decode("utf-8", "replace").splitlines():
        yield f"  {_clean(line)}\n"


def _shown(path: str, value: object) -> str:
    name = path.rpartition(".")[2]
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_shown("", one) for one in cast("list[object]", value)) or "-"
    if isinstance(value, float):
        return f"{round(value, 2):.10g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(name, value)
    return _clean(str(value))


def _number(name: str, value: int) -> str:
    if name == "mode":
        return f"{value:04o}"
    if name in _TIMES:
        return _point_in_time(value)
    return _size(value) if name in _SIZES or name.endswith("_bytes") else str(value)


def _point_in_time(nanoseconds: int) -> str:
    seconds = min(nanoseconds // 10**9, _MAX_YEAR)
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
