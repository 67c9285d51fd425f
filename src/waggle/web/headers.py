# SPDX-License-Identifier: Apache-2.0
"""The headers of a request, for those parts of `waggle.web` that look at each request. Pure."""

from __future__ import annotations

from starlette.types import Scope


def fields(scope: Scope) -> dict[bytes, bytes]:
    """Each header by its name in lower case; the first, where one comes twice."""
    return dict(reversed(list(scope["headers"])))


def text(value: bytes | None) -> str | None:
    """A header's value as text, as servers and Starlette read it."""
    return None if value is None else value.decode("latin-1")
