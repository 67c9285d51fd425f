# SPDX-License-Identifier: Apache-2.0
"""Frames of a job as the kit sends them (follow.c)."""

from __future__ import annotations

END = b"exit 3\nelapsed 5\n"


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return kind + len(data).to_bytes(4, "big") + data
