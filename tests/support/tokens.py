# SPDX-License-Identifier: Apache-2.0
"""Token counts of texts for a model, in the encoding o200k_base, which a package contains."""

from __future__ import annotations

import json
from functools import cache

import splintr


@cache
def _tokenizer() -> splintr.AnyTokenizer:
    return splintr.Tokenizer.from_pretrained("o200k_base")


def tokens(text: str) -> int:
    """Count the tokens of a text."""
    return len(_tokenizer().encode(text))


def compact(value: object) -> str:
    """Format JSON as clients put it into a prompt."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
