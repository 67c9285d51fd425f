# SPDX-License-Identifier: Apache-2.0
"""What a diagnosis is, and how names and sizes are written in one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_NAME = 120
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`code` is stable and machine-readable; the two sentences are for a person or a model."""

    code: str
    cause: str
    next_step: str

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.cause} {self.next_step}"


def shown(text: str) -> str:
    """A name that the guest or a client chose, fit for a sentence."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:MAX_NAME])
    return kept if len(text) <= MAX_NAME else f"{kept}..."


def mib(size: int) -> str:
    """Bytes as MiB, for a sentence."""
    return f"{size / _MIB:,.1f}" if size < 10 * _MIB else f"{size // _MIB:,}"
