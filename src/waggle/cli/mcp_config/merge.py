# SPDX-License-Identifier: Apache-2.0
"""The merge of an entry into the text of a client's configuration: JSON, TOML or YAML. Pure.

Called by `waggle mcp-config`. The rest of the file stays unchanged, comments included; a file that
does not allow that is refused with CannotMerge. Idempotent.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, cast

from waggle.cli.mcp_config import jsonc
from waggle.cli.mcp_config.jsonc import CannotMerge

Format = Literal["json", "toml", "yaml"]
Entry = dict[str, Any]


def merged(form: Format, text: str, section: str, name: str, entry: Entry) -> str:
    """Return `text` with the entry in it. Raises CannotMerge."""
    if form == "json":
        return jsonc.put(text, section, name, entry)
    return (_toml if form == "toml" else _yaml)(text, section, name, entry)


def fragment(form: Format, section: str, name: str, entry: Entry) -> str:
    """Return the text of a file that holds only the entry."""
    return merged(form, "", section, name, entry)


def _toml(text: str, section: str, name: str, entry: Entry) -> str:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CannotMerge(f"It is not valid TOML: {error}.") from error
    inside = data.get(section, {})
    if not isinstance(inside, dict):
        raise CannotMerge(f"Its {section!r} is not a table.")
    wanted = {**data, section: {**cast("Entry", inside), name: entry}}
    if wanted == data:
        return text
    lines = text.splitlines(keepends=True)
    header = re.compile(rf'\s*\[\s*{section}\s*\.\s*"?{re.escape(name)}"?\s*[.\]]')
    own = [number for number, line in enumerate(lines) if header.match(line)]
    block = _toml_table(f"{section}.{name}", entry)
    if own:
        end = _toml_end(lines, own[-1])
        changed = "".join([*lines[: own[0]], block, *lines[end:]])
    else:
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        changed = text + gap + block
    try:
        correct = tomllib.loads(changed) == wanted
    except tomllib.TOMLDecodeError:
        correct = False
    if not correct:
        raise CannotMerge(f"Its {section!r} is written in a way that is not understood.")
    return changed


def _toml_end(lines: list[str], header: int) -> int:
    """Return the index after a table, excluding comments and empty lines before the next one."""
    end = header + 1
    for number in range(header + 1, len(lines)):
        line = lines[number].strip()
        if line.startswith("["):
            break
        if line and not line.startswith("#"):
            end = number + 1
    return end


def _toml_table(path: str, entry: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in entry.items() if not isinstance(value, dict)}
    tables = {key: cast("Entry", value) for key, value in entry.items() if isinstance(value, dict)}
    lines = [f"[{path}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items())]
    text = "\n".join(lines) + "\n"
    return text + "".join(f"\n{_toml_table(f'{path}.{key}', each)}" for key, each in tables.items())


def _yaml(text: str, section: str, name: str, entry: Entry) -> str:
    """Merge into YAML, only in the plain block style, which the client itself writes."""
    lines = text.splitlines(keepends=True)
    if any("\t" in line or line.startswith(("...", "%")) for line in lines) or any(
        line.startswith("---") for line in lines[1:]
    ):
        raise CannotMerge("It is YAML with tabs, directives or several documents.")
    keys = [n for n, line in enumerate(lines) if re.match(rf"['\"]?{section}['\"]?\s*:", line)]
    if not keys:
        gap = "" if not text or text.endswith("\n") else "\n"
        return text + gap + f"{section}:\n" + _yaml_block(name, entry, "  ")
    if len(keys) > 1 or not re.fullmatch(rf"{section}:\s*(#.*)?", lines[keys[0]].rstrip("\r\n")):
        raise CannotMerge(f"Its {section!r} is not in the plain block style.")
    start = keys[0] + 1
    first = next((line for line in lines[start:] if _has_content(line)), "")
    indent = first[: len(first) - len(first.lstrip(" "))] or "  "
    if first.startswith("- "):
        raise CannotMerge(f"Its {section!r} is a list.")
    block = _yaml_block(name, entry, indent)
    own = _yaml_child(lines, start, indent, name)
    if own is None:
        lines[start - 1] = lines[start - 1].rstrip("\r\n") + "\n"
        return "".join([*lines[:start], block, *lines[start:]])
    return "".join([*lines[: own[0]], block, *lines[own[1] :]])


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _yaml_child(lines: list[str], start: int, indent: str, name: str) -> tuple[int, int] | None:
    """Return the lines of a child of a block, as the first index and the one after the last."""
    begin = end = None
    for number in range(start, len(lines)):
        line = lines[number]
        if not _has_content(line):
            continue
        depth = len(line) - len(line.lstrip(" "))
        if depth < len(indent):
            break
        if depth == len(indent):
            if begin is not None:
                break
            if re.match(rf"['\"]?{re.escape(name)}['\"]?\s*:", line.strip()):
                begin = number
        if begin is not None:
            end = number + 1
    return None if begin is None or end is None else (begin, end)


def _yaml_block(name: str, entry: Mapping[str, Any], indent: str) -> str:
    """Return the entry with strings and lists in JSON's notation, which is also YAML."""
    lines = [f"{indent}{name}:"]
    for key, value in entry.items():
        shown = "{}" if value == {} else json.dumps(value)
        lines.append(f"{indent}  {key}: {shown}")
    return "\n".join(lines) + "\n"
