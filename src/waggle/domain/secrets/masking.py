# SPDX-License-Identifier: Apache-2.0
"""Values of secrets in what a server answers, replaced by asterisks of the same length. Pure.

`infra.net.tls` makes a `Masks` for each answer and a `Masker` for each stream of bytes. Forms that
are found: the value itself, escaped for a URL and for JSON, and in base64 at any offset, also of
longer credentials around it. Other transformations (compression, reversed, encrypted) cannot be
found: a host of a secret knows it anyway, and the operator trusts it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_from_bytes

from waggle.domain.secrets import SecretValue

Piece = bytes | bytearray
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_SHORTEST: Final = 8


def forms_of(value: bytes) -> set[bytes]:
    """Return what a value looks like in text: itself, in a URL, in JSON, and in base64."""
    found = {value, quote_from_bytes(value, safe="").encode(), quote_from_bytes(value).encode()}
    found.add(json.dumps(value.decode("ascii"))[1:-1].encode("ascii"))
    for offset in range(3):
        # The characters of base64 that depend on the value alone, whatever stands around it.
        packed = base64.b64encode(b"\0" * offset + value)
        first = -(-offset * 8 // 6)
        last = (offset + len(value)) * 8 // 6
        found |= {packed[first:last], packed[first:last].translate(_URL_SAFE)}
    return {form for form in found if len(form) >= _SHORTEST}


class Masks:
    """The patterns of some values; made once for them, used for many streams."""

    def __init__(self, values: Iterable[SecretValue], also: Iterable[bytes] = ()) -> None:
        """`also` are encoded forms that were sent, such as Basic credentials."""
        forms = {form for value in values for form in forms_of(value.reveal())} | set(also)
        # The longest first: the whole of the credentials before the part that is the value.
        self.forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._pattern = re.compile(b"|".join(map(re.escape, self.forms)))
        # At the end of a text: four bytes of a form, or fewer that are the last.
        starts = {re.escape(form[:4]) for form in self.forms}
        starts |= {re.escape(form[:n]) + rb"\Z" for form in self.forms for n in (1, 2, 3)}
        self._beginnings = re.compile(b"|".join(sorted(starts)) or b"(?!)")
        self._window = max(map(len, self.forms), default=1) - 1

    def __bool__(self) -> bool:
        return bool(self.forms)

    def masked(self, text: bytes) -> bytes:
        """Return a complete text without values, of the same length."""
        return bytes(self.masked_piece(text))

    def masked_piece(self, text: Piece) -> Piece:
        """Return the same of a text that may be a bytearray, without a copy if it has none."""
        for form in self.forms:  # faster than the pattern by far, where there is nothing
            if form in text:
                return self._pattern.sub(lambda match: b"*" * len(match[0]), text)
        return text

    def unfinished(self, text: Piece) -> int:
        """Return how many bytes at the end of a text may be the beginning of a value."""
        tail = text[-self._window :]
        for match in self._beginnings.finditer(tail):
            rest = tail[match.start() :]
            if any(form.startswith(rest) and form != rest for form in self.forms):
                return len(rest)
        return 0


class Masker:
    """Masks a stream; holds back only bytes that may be the beginning of a value."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._held = b""

    def feed(self, piece: Piece) -> Piece:
        """Return what can be passed on now; as many bytes come out in the end as went in."""
        if not self._masks:
            return piece
        text = self._masks.masked_piece(self._held + piece if self._held else piece)
        held = self._masks.unfinished(text)
        self._held = bytes(text[len(text) - held :]) if held else b""
        return text[: len(text) - held] if held else text

    def finish(self) -> bytes:
        """Return what was held back: no more comes."""
        held, self._held = self._held, b""
        return held
