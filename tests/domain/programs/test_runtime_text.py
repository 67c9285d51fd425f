# SPDX-License-Identifier: Apache-2.0
"""The encoding of text for a guest, and the refusal of text that cannot be encoded."""

from __future__ import annotations

import pytest

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.runtime import encoded


def test_text_is_encoded_as_utf_8() -> None:
    assert encoded("a\u00e9\U0001f41d\0", "It") == b"a\xc3\xa9\xf0\x9f\x90\x9d\0"


def test_a_lone_surrogate_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument) as refused:
        encoded("ab\ud83d\ude00"[:3], "The code")
    assert refused.value.message == "The code is not valid Unicode text."
    assert "\\ud83d, half of a surrogate pair" in refused.value.hint


def test_a_given_hint_is_used_in_the_refusal() -> None:
    with pytest.raises(InvalidArgument) as refused:
        encoded("\udfff", "The content", hint="Send it with encoding 'base64'.")
    assert refused.value.hint == "Send it with encoding 'base64'."
