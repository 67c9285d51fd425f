# SPDX-License-Identifier: Apache-2.0
"""Ids and names of environments and snapshots, as clients write them. Pure."""

from __future__ import annotations

import re

from waggle.domain.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Whether the text has the form of an id."""
    return _ID.fullmatch(text) is not None


def parse_id(text: str) -> str:
    """Return a well-formed id in lower case. Raises InvalidArgument."""
    normal = text.strip().lower()
    if not is_id(normal):
        raise InvalidArgument(
            f"{text[:60]!r} is not an id.",
            hint="environment_id is a UUID; create_environment returned it.",
        )
    return normal


def parse_name(text: str) -> str:
    """Return a usable name, which becomes the guest's hostname. Raises InvalidArgument."""
    if not _NAME.fullmatch(text):
        raise InvalidArgument(
            f"{text[:80]!r} cannot be a name.",
            hint="Use 1 to 63 letters, digits, '.', '_' or '-'; a letter or digit first and last.",
        )
    return text
