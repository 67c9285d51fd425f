# SPDX-License-Identifier: Apache-2.0
"""What a client calls its environments and snapshots: by id, by name, or by the start of the id.

Pure. Given only what the caller owns, so that nothing is told of what others have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from waggle.domain.errors import InvalidArgument

MIN_SHORT = 6
"""Characters of an id that are enough, when only one begins so."""
_MAX_TOLD = 5
_REFERENCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SHORT = re.compile(rf"[0-9a-f-]{{{MIN_SHORT},35}}")


def parse_reference_text(text: str, parameter: str, maker: str) -> str:
    """A text that an id or a name may be; `maker` hands out what is called `parameter`.

    Raises InvalidArgument.
    """
    plain = text.strip(" \t\r\n`'\"")
    if not _REFERENCE.fullmatch(plain):
        raise InvalidArgument(
            f"{text[:60]!r} is no id, nor a name.",
            hint=f"{parameter} is what {maker} returned: a UUID, its first {MIN_SHORT} characters, "
            "or the name.",
        )
    return plain


def find_id(reference: str, known: Iterable[tuple[str, str]]) -> str | None:
    """The one id of `known`, pairs of id and name, that is meant; None when there is none.

    A whole id goes before names, a name before the start of an id. Raises InvalidArgument, with the
    candidates, when several fit.
    """
    pairs = [*known]
    wanted = reference.lower()
    if any(each == wanted for each, _ in pairs):
        return wanted
    found = [pair for pair in pairs if pair[1] == reference]
    if not found and _SHORT.fullmatch(wanted):
        found = [pair for pair in pairs if pair[0].startswith(wanted)]
    if len(found) > 1:
        told = ", ".join(f"{each} ({name})" for each, name in found[:_MAX_TOLD])
        more = f" and {len(found) - _MAX_TOLD} more" if len(found) > _MAX_TOLD else ""
        raise InvalidArgument(
            f"{reference!r} means {len(found)} of yours: {told}{more}.", hint="Give the whole id."
        )
    return found[0][0] if found else None
