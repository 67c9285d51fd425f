# SPDX-License-Identifier: Apache-2.0
"""Durations as options: `90s`, `30m`, `12h`, `7d`, `1h30m`, or a number of seconds. Pure.

Every option of the command line that is a duration is read here.
"""

from __future__ import annotations

import re
from datetime import timedelta

from waggle.config.parsers import parse_duration
from waggle.domain.errors import InvalidArgument

NOTHING = timedelta()
LONGEST = timedelta(days=9999)
"""Of durations without another bound."""
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_ZERO = re.compile(r"0+(?:ms|[dhms])?")
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def parse_option(
    option: str, text: str, least: timedelta = NOTHING, most: timedelta = LONGEST
) -> timedelta:
    """Return the duration that an option's text says. Raises InvalidArgument."""
    found = _parsed(text)
    if found is None or not least <= found <= most:
        raise InvalidArgument(
            f"{option} {text[:40]!a} is no duration from {shown(least)} to {shown(most)}.",
            hint="Write it as 90s, 30m, 12h or 7d; a number alone is seconds.",
        )
    return found


def _parsed(text: str) -> timedelta | None:
    if _NUMBER.fullmatch(text):
        return timedelta(seconds=int(text))
    if _ZERO.fullmatch(text):
        return NOTHING
    try:
        return parse_duration(text)
    except ValueError:
        return None


def shown(value: timedelta) -> str:
    """Return a duration of whole seconds in the largest unit in which it is a whole number."""
    seconds = int(value.total_seconds())
    unit, size = next((unit, size) for unit, size in _UNITS if not seconds % size)
    return f"{seconds // size}{unit}" if seconds else "0s"
