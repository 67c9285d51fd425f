# SPDX-License-Identifier: Apache-2.0
"""Digests of blobs: `ALGORITHM:HEX`, of the two algorithms that OCI registers for images. Pure.

The store names its manifests by sha256, whatever an index calls them; configurations and layers
keep the digests that their manifest states.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final, Protocol

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
"""With the hexadecimal digits that they have."""
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Hash(Protocol):
    """A running digest of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Take more."""
        ...

    def hexdigest(self) -> str:
        """The digest of what was taken."""
        ...


_NEW: Final[dict[str, Callable[[], Hash]]] = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


def new_hash(digest: str) -> Hash:
    """A hash of the algorithm of a digest, or of that name; sha256 for an empty text."""
    return _NEW[digest.partition(":")[0] or "sha256"]()


def algorithm_of(hex_: str) -> str:
    """The algorithm that a digest's hexadecimal digits are of: their number tells."""
    return "sha512" if len(hex_) == ALGORITHMS["sha512"] else "sha256"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of some bytes."""
    running = new_hash(algorithm)
    running.update(data)
    return f"{algorithm}:{running.hexdigest()}"


def has_digest(data: bytes, digest: str) -> bool:
    """Whether bytes are what a digest says."""
    return digest_of(data, digest.partition(":")[0]) == digest
