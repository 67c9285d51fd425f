# SPDX-License-Identifier: Apache-2.0
"""Owners of a tokens file in memory, and servers that ask for their tokens."""

from __future__ import annotations

from tests.support.server import Setup

from waggle.domain.access import Owner, Principal, TokenRefused
from waggle.web.access import AccessRules, OAuthResource

ANN, BOB, SCRAPER = "wgl_" + "a" * 43, "wgl_" + "b" * 43, "wgl_" + "m" * 43


class Tokens:
    """A tokens file, in memory."""

    def __init__(self) -> None:
        self.owners = {ANN: "ann", BOB: "bob", SCRAPER: "metrics"}

    async def verify(self, token: str) -> Principal:
        if token not in self.owners:
            raise TokenRefused("unknown")
        return Principal(Owner(self.owners[token]), "token")


def guarded(tokens: Tokens | None = None, resource: OAuthResource | None = None) -> Setup:
    return Setup(access=AccessRules(tokens or Tokens(), resource))
