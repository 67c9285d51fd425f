# SPDX-License-Identifier: Apache-2.0
"""The merge of an entry into the text of a client's configuration: JSON, TOML or YAML. Pure.

The rest of the file stays unchanged: comments, order, layout. The text is edited, then checked to
hold the old data plus the entry; a file that does not allow that is refused with CannotMerge.
Idempotent. JSON may have `//` and `/* */` comments and trailing commas, as VS Code and Zed write.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from waggle.domain.errors import WaggleError

Format = Literal["json", "toml", "yaml"]
Entry = dict[str, Any]


def merged(form: Format, text: str, section: str, name: str, entry: Entry) -> str:
    """Return `text` with the entry in it; of an empty text, the entry alone. Raises CannotMerge."""
    if form == "json":
        return put_json(text, section, name, entry)
    return (_toml if form == "toml" else _yaml)(text, section, name, entry)


def _with(data: Entry, section: str, name: str, entry: Entry, kind: str) -> Entry:
    """Return the data with the entry. `kind` is the format's word for a mapping."""
    inside = data.get(section, {})
    if not isinstance(inside, dict):
        raise CannotMerge(f"Its {section!r} is not {kind}.")
    return {**data, section: {**cast("Entry", inside), name: entry}}


def _toml(text: str, section: str, name: str, entry: Entry) -> str:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CannotMerge(f"It is not valid TOML: {error}.") from error
    wanted = _with(data, section, name, entry, "a table")
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
        raise CannotMerge(f"Its {section!r} has a layout that is not understood.")
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
    return text + "".join(
        f"\n{_toml_table(f'{path}.{key}', table)}" for key, table in tables.items()
    )


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
    members = (f"{indent}  {key}: {json.dumps(value)}\n" for key, value in entry.items())
    return f"{indent}{name}:\n{''.join(members)}"


class CannotMerge(WaggleError):
    """The entry cannot be put into this file without risk to its other content."""

    code = "cannot_merge"


_SPACE = re.compile(r"(?:[ \t\r\n]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"/]+')


class _Member(NamedTuple):
    """A member of an object, and where its value is in the text."""

    name: str
    start: int
    end: int


@dataclass(slots=True)
class _Reader:
    """One pass over JSON text. Raises CannotMerge for invalid JSON and repeated names."""

    text: str
    at: int = 0

    def space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def token(self) -> str:
        self.space()
        found = _TOKEN.match(self.text, self.at)
        if found is None:
            raise _broken(self.text, self.at)
        self.at = found.end()
        return found[0]

    def value(self) -> tuple[Any, list[_Member], int]:
        """Read a value. Return it, its members if it is an object, and its start."""
        self.space()
        start = self.at
        word = self.token()
        if word == "{":
            values, members = self._object()
            return values, members, start
        if word == "[":
            return self._array(), [], start
        try:
            return json.loads(word), [], start
        except ValueError:
            raise _broken(self.text, start) from None

    def _object(self) -> tuple[Entry, list[_Member]]:
        values: Entry = {}
        members: list[_Member] = []
        while (token := self.token()) != "}":
            at = self.at
            if not token.startswith('"') or self.token() != ":":
                raise _broken(self.text, at)
            try:
                name: str = json.loads(token)
            except ValueError:
                raise _broken(self.text, at) from None
            if name in values:
                raise CannotMerge(f"It has {name!r} twice in one object.")
            values[name], _, start = self.value()
            members.append(_Member(name, start, self.at))
            if self._ends("}"):
                break
        return values, members

    def _array(self) -> list[Any]:
        values: list[Any] = []
        while True:
            self.space()
            if self.text[self.at : self.at + 1] == "]":
                self.at += 1
                return values
            values.append(self.value()[0])
            if self._ends("]"):
                return values

    def _ends(self, closing: str) -> bool:
        token = self.token()
        if token not in (",", closing):
            raise _broken(self.text, self.at)
        return token == closing


def _broken(text: str, at: int) -> CannotMerge:
    return CannotMerge(f"It is not valid JSON: look at line {text.count(chr(10), 0, at) + 1}.")


def read_json(text: str) -> tuple[Entry, list[_Member], int]:
    """Return the file's data, its top members, and the start of its object. Raises CannotMerge."""
    reader = _Reader(text)
    try:
        data, members, start = reader.value()
    except RecursionError:
        raise CannotMerge("It is nested too deeply.") from None
    reader.space()
    if reader.at != len(text) or not isinstance(data, dict):
        raise CannotMerge("It does not hold one JSON object.")
    return cast("Entry", data), members, start


def put_json(text: str, section: str, name: str, entry: Entry) -> str:
    """Return `text` with `entry` as `section.name`; the same text if it is already there.

    Raises CannotMerge.
    """
    if not text.strip():
        return json.dumps({section: {name: entry}}, indent=2, ensure_ascii=False) + "\n"
    data, members, start = read_json(text)
    wanted = _with(data, section, name, entry, "an object")
    if wanted == data:
        return text
    step = _indent(text)
    found = next((member for member in members if member.name == section), None)
    if found is None:
        changed = _insert(text, start, section, {name: entry}, step, 1, empty=not members)
    else:
        _, inner, _ = _Reader(text, found.start).value()
        own = next((member for member in inner if member.name == name), None)
        if own is None:
            changed = _insert(text, found.start, name, entry, step, 2, empty=not inner)
        else:
            changed = text[: own.start] + _shown(entry, step, 2, text) + text[own.end :]
    if read_json(changed)[0] != wanted:
        raise CannotMerge("Its layout is not understood.")
    return changed


def _insert(
    text: str, brace: int, name: str, value: Entry, step: str, depth: int, *, empty: bool
) -> str:
    """Return `text` with a member inserted right after the brace of an object."""
    end = "\r\n" if "\r\n" in text else "\n"
    member = f"{end}{step * depth}{json.dumps(name)}: {_shown(value, step, depth, text)}"
    head, rest = text[: brace + 1], text[brace + 1 :]
    if not empty:
        return f"{head}{member},{rest}"
    bare = rest.lstrip(" \t\r\n")
    if bare.startswith("}"):
        return f"{head}{member}{end}{step * (depth - 1)}{bare}"
    return head + member + rest


def _shown(value: Entry, step: str, depth: int, text: str) -> str:
    lines = json.dumps(value, indent=step, ensure_ascii=False).splitlines()
    end = "\r\n" if "\r\n" in text else "\n"
    return end.join([lines[0], *(step * depth + line for line in lines[1:])])


def _indent(text: str) -> str:
    found = re.search(r"\{\s*?\n([ \t]+)\"", text)
    return found[1] if found else "  "
