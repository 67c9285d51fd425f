# SPDX-License-Identifier: Apache-2.0
"""Tokens of the file and of the issuer side by side: the prefix says who is asked."""

from __future__ import annotations

from waggle.domain.access import Identity, TokenRefused, Verifier
from waggle.infra.access.tokens_text import PREFIX


class EitherVerifier:
    """Asks the one that a token is for. Either may be None, but not both."""

    def __init__(self, tokens: Verifier | None, issued: Verifier | None) -> None:
        self._tokens = tokens
        self._issued = issued

    async def verify(self, token: str) -> Identity:
        """Who has this token. Raises TokenRefused, ScopeMissing or CannotVerify."""
        verifier = self._tokens if token.startswith(PREFIX) else self._issued
        if verifier is None:
            raise TokenRefused("unknown")
        return await verifier.verify(token)
