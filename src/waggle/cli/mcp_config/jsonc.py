# SPDX-License-Identifier: Apache-2.0
"""An editor of one member in a JSON file that people edit: comments, order, layout stay. Pure.

Reads JSON with `//` and `/* */` comments and trailing commas, as VS Code and Zed write it. Edits
the text, then checks that the result is the old data plus the member; otherwise the file is refused
with CannotMerge. Called by `merge`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

from waggle.domain.errors import WaggleError


class CannotMerge(WaggleError):
    """The entry cannot be put into this file without risk to its other content."""

    code = "cannot_merge"


_SPACE = re.compile(r"(?:[ \t\r\n]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"/]+')
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    start: int
    end: int
    """`start` and `end` are those of the value, in the text."""


class _Reader:
    """One pass over the text. Raises CannotMerge for invalid JSON and repeated names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

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

    def _object(self) -> tuple[Object, list[_Member]]:
        values: Object = {}
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


def read(text: str) -> tuple[Object, list[_Member], int]:
    """Return the file's data, its top members, and the start of its object. Raises CannotMerge."""
    reader = _Reader(text)
    try:
        data, members, start = reader.value()
    except RecursionError:
        raise CannotMerge("It is nested too deeply.") from None
    reader.space()
    if reader.at != len(text) or not isinstance(data, dict):
        raise CannotMerge("It does not hold one JSON object.")
    return cast("Object", data), members, start


def put(text: str, section: str, name: str, entry: Object) -> str:
    """Return `text` with `entry` as `section.name`; the same text if it is already there.

    Raises CannotMerge.
    """
    if not text.strip():
        return json.dumps({section: {name: entry}}, indent=2, ensure_ascii=False) + "\n"
    data, members, start = read(text)
    inside = data.get(section, {})
    if not isinstance(inside, dict):
        raise CannotMerge(f"Its {section!r} is not an object.")
    wanted = {**data, section: {**cast("Object", inside), name: entry}}
    if wanted == data:
        return text
    step = _indent(text)
    found = next((member for member in members if member.name == section), None)
    if found is None:
        changed = _insert(text, start, section, {name: entry}, step, 1, empty=not members)
    else:
        reader = _Reader(text)
        reader.at = found.start
        _, inner, _ = reader.value()
        own = next((member for member in inner if member.name == name), None)
        if own is None:
            changed = _insert(text, found.start, name, entry, step, 2, empty=not inner)
        else:
            changed = text[: own.start] + _shown(entry, step, 2, text) + text[own.end :]
    if read(changed)[0] != wanted:
        raise CannotMerge("Its layout is not understood.")
    return changed


def _insert(
    text: str, brace: int, name: str, value: Object, step: str, depth: int, *, empty: bool
) -> str:
    """Return `text` with a member inserted right after the brace of an object."""
    end = "\r\n" if "\r\n" in text else "\n"
    member = f"{json.dumps(name)}: {_shown(value, step, depth, text)}"
    after = brace + 1
    rest = text[after:]
    if empty:
        tail = f"{end}{step * (depth - 1)}" if rest.lstrip(" \t\r\n").startswith("}") else ""
        return (
            text[:after]
            + f"{end}{step * depth}{member}{tail}"
            + (rest.lstrip(" \t\r\n") if tail else rest)
        )
    return text[:after] + f"{end}{step * depth}{member}," + rest


def _shown(value: Object, step: str, depth: int, text: str) -> str:
    lines = json.dumps(value, indent=step, ensure_ascii=False).splitlines()
    end = "\r\n" if "\r\n" in text else "\n"
    return end.join([lines[0], *(step * depth + line for line in lines[1:])])


def _indent(text: str) -> str:
    found = re.search(r"\{\s*?\n([ \t]+)\"", text)
    return found[1] if found else "  "
