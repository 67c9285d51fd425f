# SPDX-License-Identifier: Apache-2.0
"""Why calls are refused now for lack of room that all share; `/readyz` says so. Pure.

Made by `waggle.web.app`, which knows the bodies; `waggle.web.server` adds its connections.
"""

from __future__ import annotations

from typing import Protocol


class _Refusing(Protocol):
    @property
    def refusing(self) -> bool: ...


class _Full(Protocol):
    @property
    def full(self) -> bool: ...


class Load:
    """What is looked at."""

    def __init__(self, bodies: _Refusing) -> None:
        self._bodies = bodies
        self._connections: _Full | None = None

    def watch(self, connections: _Full) -> None:
        """These are the connections on which requests come."""
        self._connections = connections

    @property
    def reason(self) -> str | None:
        """None while nobody is refused because of others."""
        if self._connections is not None and self._connections.full:
            return "As many requests are served as can be; further ones are refused."
        if self._bodies.refusing:
            return "Large requests use up the memory for them; further ones are refused."
        return None
