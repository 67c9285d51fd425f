# SPDX-License-Identifier: Apache-2.0
"""How many tokens a model pays for a text: those of o200k_base, which a package brings along."""

from __future__ import annotations

import json
from functools import cache

import splintr


@cache
def _tokenizer() -> splintr.AnyTokenizer:
    return splintr.Tokenizer.from_pretrained("o200k_base")


def tokens(text: str) -> int:
    """The tokens of a text."""
    return len(_tokenizer().encode(text))


def compact(value: object) -> str:
    """JSON as clients put it into a prompt."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
