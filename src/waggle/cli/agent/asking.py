# SPDX-License-Identifier: Apache-2.0
"""The words of `waggle agent METHOD NAME=VALUE ...` as parameters of the protocol.

The models say what a value is: text as it is typed, bytes (the text, or `@FILE`), a mode in octal
digits, all else JSON.
Talks to no agent.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.infra.guest.calls import encoded
from waggle.infra.guest.protocol import METHODS
from waggle.infra.guest.protocol.fields import MAX_WRITE

_STDIN: Final = "-"
_JSON: Final = {
    "array": ("a list", """'["/usr/bin/uptime"]'"""),
    "object": ("an object", """'{"LANG": "C"}'"""),
    "boolean": ("true or false", "false"),
    "integer": ("a number", "5"),
}
"""Words and an example for a type."""


@dataclass(frozen=True, slots=True)
class Given:
    """A method and its parameters; `source` is a file to write in parts, instead of `data`."""

    method: str
    values: dict[str, object]
    source: Path | None = None


ABOUT: Final = {
    "ping": "answers",
    "get_agent_info": "the agent, its protocol, and what its policy allows",
    "get_system_info": "OS, kernel, host name, CPUs, memory, uptime, time",
    "get_network_info": "network interfaces with their addresses",
    "get_disk_usage": "mounted file systems with their sizes",
    "get_metrics": "CPU, load, memory, pressure, disks, network, processes",
    "get_users": "who runs programs, and who is logged in",
    "exec_command": "run a program without a shell: argv='[\"/usr/bin/uptime\"]'",
    "get_process": "status and output so far of a program: process=3",
    "kill_process": "kill a program and all that it started: process=3",
    "file_read": "read a file: path=/etc/hostname",
    "file_write": "write a file: path=/tmp/a data=TEXT, or data=@FILE; mode=0600",
    "list_directory": "entries of a directory: path=/tmp",
    "set_time": "set the clock to nanoseconds since 1970: time=...",
    "shutdown": "end the machine, by its init or at once (manner=forced)",
    "reboot": "start the machine anew, by its init or at once (manner=forced)",
    "sync_filesystems": "write what waits for the disks",
    "freeze_filesystems": "hold all writes, at most for timeout=60 seconds",
    "thaw_filesystems": "let writes go on",
}
"""A few words about each method."""


def parameters(method: str) -> Iterator[str]:
    """Yield the parameters of a method; those in brackets may be left out."""
    for name in METHODS[method].params.model_fields:
        yield f"{name}=..." if name in _required(method) else f"[{name}=...]"


def given(method: str, words: Sequence[str]) -> Given:
    """Return a call. Raises InvalidArgument for what the protocol does not know."""
    if method not in METHODS:
        raise InvalidArgument(
            f"There is no method {method[:40]!a}.{_near(method, METHODS)}",
            hint="'waggle agent --list' shows all.",
        )
    values: dict[str, object] = {}
    source: Path | None = None
    for word in words:
        name, equals, text = word.partition("=")
        _check_name(method, name, bool(equals), values)
        if method == "file_write" and name == "data" and _file(text) and "offset" not in values:
            source = Path(text[1:])
            values[name] = b""
        else:
            values[name] = _value(method, name, text)
    if source is not None and "offset" in values:
        source, values["data"] = None, _bytes("data", f"@{source}")
    _check_values(method, values)
    if source is not None:
        _opened(source).close()
    return Given(method, values, source)


def _check_name(method: str, name: str, has_value: bool, so_far: Iterable[str]) -> None:
    known = METHODS[method].params.model_fields
    if not has_value:
        raise InvalidArgument(f"{name[:40]!a} has no value.", hint=_takes(method))
    if name not in known:
        raise InvalidArgument(
            f"{method} has no parameter {name[:40]!a}.{_near(name, known)}", hint=_takes(method)
        )
    if name in so_far:
        raise InvalidArgument(f"{name} is there twice.", hint="Give each parameter once.")


def _check_values(method: str, values: dict[str, object]) -> None:
    """Refuse what the models do not take, and what no agent could do anything with."""
    missing = [name for name in _required(method) if name not in values]
    if missing:
        raise InvalidArgument(f"{method} needs {' and '.join(missing)}.", hint=_takes(method))
    argv = values.get("argv")
    program = str(cast("list[object]", argv)[0]) if isinstance(argv, list) and argv else "/"
    for name, path in (("argv", program), ("path", values.get("path", "/"))):
        if not str(path).startswith("/"):
            raise InvalidArgument(
                f"{str(path)[:200]!a} in {name} is not an absolute path.",
                hint="It begins with /, as the machine has it; no shell looks for it.",
            )
    try:
        encoded(method, values)
    except InvalidArgument as error:
        error.hint = _takes(method)
        raise


def _required(method: str) -> list[str]:
    return METHODS[method].params.model_json_schema().get("required", [])


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [*known], n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _takes(method: str) -> str:
    known = " ".join(parameters(method))
    return f"{method} takes {known}" if known else f"{method} takes no parameters."


def _value(method: str, name: str, text: str) -> object:
    if name == "mode":
        return _mode(text)
    kinds = _kinds(METHODS[method].params.model_json_schema(), name)
    if any(kind.get("contentEncoding") for kind in kinds):
        return _bytes(name, text)
    if any(kind.get("type") == "string" for kind in kinds):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        words, example = _JSON[next((str(one.get("type")) for one in kinds), "integer")]
        raise InvalidArgument(
            f"{name}={text[:40]!a} is not JSON, and {name} is {words}.",
            hint=f"As in: {name}={example}",
        ) from None


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise InvalidArgument(
            f"mode={text[:40]!a} is not an octal number up to 0777.", hint="As in: mode=0644"
        )
    return mode


def _kinds(schema: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the schemas that a parameter may have, without null."""
    about: dict[str, Any] = schema["properties"][name]
    found: list[dict[str, Any]] = []
    for one in cast("list[dict[str, Any]]", about.get("anyOf", [about])):
        reference: str = one.get("$ref", "")
        found.append(schema["$defs"][reference.rpartition("/")[2]] if reference else one)
    return [one for one in found if one.get("type") != "null"]


def _file(text: str) -> bool:
    return text.startswith("@") and text[1:] != _STDIN


def _bytes(name: str, text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    with sys.stdin.buffer if text[1:] == _STDIN else _opened(Path(text[1:])) as file:
        data = file.read(MAX_WRITE + 1)
    if len(data) > MAX_WRITE:
        raise TooLarge(
            f"{name}={text[:200]!a} has over {MAX_WRITE:,} bytes.",
            hint="'file_write path=... data=@FILE' writes a longer file in parts.",
        )
    return data


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}.") from error
