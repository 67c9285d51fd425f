# SPDX-License-Identifier: Apache-2.0
"""Environment variables as clients give them: an object, or NAME=value in a list or lines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.programs.text import NUL_HINT, encoded

MAX_VARIABLES_BYTES = 32_768
"""Of an environment's own, with their names."""

Given = Mapping[str, object] | Sequence[str] | str


def parse_variables(given: Given) -> dict[str, str]:
    """Names with values, of a text one a line; numbers and booleans become text.

    Raises InvalidArgument.
    """
    if isinstance(given, str):
        given = [line.strip() for line in given.splitlines() if line.strip()]
    if not isinstance(given, Mapping):
        pairs = [each.partition("=") for each in given]
        if not all(equals for _, equals, _ in pairs):
            raise InvalidArgument(
                "A variable in env has no '='.", hint='Write NAME=value, such as "LANG=C.UTF-8".'
            )
        return _checked({name.strip(): value for name, _, value in pairs})
    return _checked({name: _text(name, value) for name, value in given.items()})


def parse_own_variables(given: Given) -> dict[str, str]:
    """Those of an environment, for all its programs. Raises InvalidArgument or TooLarge."""
    variables = parse_variables(given)
    size = sum(len(encoded(f"{name}={value}", "env")) + 1 for name, value in variables.items())
    if size > MAX_VARIABLES_BYTES:
        raise TooLarge(
            f"The variables are over {MAX_VARIABLES_BYTES} bytes together.",
            hint="Put what is long into a file.",
        )
    return variables


def _checked(variables: dict[str, str]) -> dict[str, str]:
    if any(not name or "=" in name for name in variables):
        raise InvalidArgument(
            "The name of an environment variable is empty or contains '='.",
            hint='Give env as names with values, such as {"LANG": "C.UTF-8"}.',
        )
    if any("\0" in name + value for name, value in variables.items()):
        raise InvalidArgument("A variable cannot contain NUL.", hint=NUL_HINT)
    return variables


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise InvalidArgument(
        f"The value of {name[:60]!r} in env is no text.",
        hint='Values are text or numbers; write "" for an empty one.',
    )
