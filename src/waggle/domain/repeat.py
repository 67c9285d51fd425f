# SPDX-License-Identifier: Apache-2.0
"""Calls that a client may repeat without doing the work twice: the key, and what is kept of one.

As the draft of the IETF's Idempotency-Key header has it: a key belongs to one call with one set of
arguments; with others it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from waggle.domain.errors import InvalidArgument

KEEP = timedelta(hours=24)
KEEP_PER_OWNER = 1_000
KEEP_BYTES_PER_OWNER = 32 << 20
"""Of results, which may carry images."""
MAX_KEY = 128
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """One call: whose, under which key, and the digest of its tool and arguments."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KnownCall:
    """What is on record of a call: its digest, and its result once there was one."""

    fingerprint: str
    result: str | None


def parse_key(text: str) -> str:
    """A usable key. Raises InvalidArgument."""
    if not _KEY.fullmatch(text):
        raise InvalidArgument(
            f"idempotency_key must be 1 to {MAX_KEY} printable ASCII characters without spaces.",
            hint="A fresh UUID for each thing to be done once is a good key.",
        )
    return text


class CallStore(Protocol):
    """Remembers keyed calls across restarts. Every call is durable when it returns."""

    async def find(self, call: KeyedCall) -> KnownCall | None:
        """What is on record under the call's owner and key; None when that is too old."""
        ...

    async def begin(self, call: KeyedCall) -> None:
        """Put it on record as begun. Forgets what is too old or too much."""
        ...

    async def finish(self, call: KeyedCall, result: str) -> None:
        """Keep its result, and forget the owner's oldest results while all are too much."""
        ...

    async def forget(self, call: KeyedCall) -> None:
        """Take it off the record. Idempotent."""
        ...
