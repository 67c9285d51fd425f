# SPDX-License-Identifier: Apache-2.0
"""Values of secrets in what a server answers, replaced by asterisks of the same length. Pure.

`infra.net.tls` makes a `Masks` for each answer and a `Masker` for each stream of bytes. Forms that
are found: the value itself, escaped for a URL, JSON and HTML in the ways of common servers, and in
base64 at any offset, also of longer credentials around it. Other transformations (compression,
reversed, encrypted) cannot be found: a host of a secret knows it anyway, and the operator trusts
it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import quote_from_bytes

from waggle.domain.secrets import SecretValue

Piece = bytes | bytearray
_ESCAPE: Final = re.compile(rb"%[0-9A-F]{2}")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_SHORTEST: Final = 8
_START: Final = 4


def forms_of(value: bytes) -> set[bytes]:
    """Return what a value looks like in text: itself, in a URL, JSON and HTML, and in base64."""
    found = {value, *_in_urls(value), *_in_json(value), *_in_html(value)}
    for offset in range(3):
        # The characters of base64 that depend on the value alone, whatever stands around it.
        packed = base64.b64encode(b"\0" * offset + value)
        first = -(-offset * 8 // 6)
        last = (offset + len(value)) * 8 // 6
        found |= {packed[first:last], packed[first:last].translate(_URL_SAFE)}
    return {form for form in found if len(form) >= _SHORTEST}


def _in_urls(value: bytes) -> Iterator[bytes]:
    for safe in ("", "/"):
        for quoted in (quote_from_bytes(value, safe), quote_from_bytes(value, safe + " ")):
            text = quoted.replace(" ", "+").encode("ascii")
            yield text
            yield _ESCAPE.sub(lambda match: match[0].lower(), text)


def _in_json(value: bytes) -> Iterator[bytes]:
    text = json.dumps(value.decode("ascii"))[1:-1]
    yield text.encode("ascii")
    yield text.replace("/", "\\/").encode("ascii")  # as PHP writes it
    # As in what may stand in HTML: by Go, Rails, Gson, .NET.
    for escaped, form in (("<>&", "\\u%04x"), ("<>&='", "\\u%04x"), ("<>&'+`", "\\u%04X")):
        codes = {character: form % ord(character) for character in escaped}
        yield text.translate(str.maketrans(codes)).encode("ascii")
    codes = {character: f"\\u{ord(character):04X}" for character in "<>&'+`\""} | {"\\": r"\\"}
    yield value.decode("ascii").translate(str.maketrans(codes)).encode("ascii")


def _in_html(value: bytes) -> Iterator[bytes]:
    plain = value.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")
    for double in (b'"', b"&quot;", b"&#34;"):
        for single in (b"'", b"&#39;", b"&#x27;", b"&#039;"):
            yield plain.replace(b'"', double).replace(b"'", single)


class Masks:
    """The forms of some values. Cheap to make: a guest can have other `also` in every request."""

    def __init__(self, values: Iterable[SecretValue], also: Iterable[bytes] = ()) -> None:
        """`also` are encoded forms that were sent, such as Basic credentials."""
        forms = {form for value in values for form in forms_of(value.reveal())} | set(also)
        # The longest first: the whole of the credentials before the part that is the value.
        self.forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._window = max(map(len, self.forms), default=1) - 1
        self._by_start: dict[bytes, list[bytes]] = {}
        for form in self.forms:
            self._by_start.setdefault(form[:_START], []).append(form)

    def __bool__(self) -> bool:
        return bool(self.forms)

    def masked(self, text: bytes) -> bytes:
        """Return a complete text without values, of the same length."""
        return bytes(self.masked_piece(text))

    def masked_piece(self, text: Piece) -> Piece:
        """Return the same of a text that may be a bytearray, without a copy if it has none."""
        for form in self.forms:
            if form in text:
                text = text.replace(form, b"*" * len(form))
        return text

    def unfinished(self, text: Piece) -> int:
        """Return how many bytes at the end of a text may be the beginning of a value."""
        tail = bytes(text[-self._window :])
        return max((_unfinished(tail, *one) for one in self._by_start.items()), default=0)


def _unfinished(tail: bytes, start: bytes, forms: Sequence[bytes]) -> int:
    """Return the same for forms that start in the same way, at whatever distance these repeat."""
    at = tail.find(start)
    while at >= 0:
        rest = tail[at:]
        if any(len(form) > len(rest) and form.startswith(rest) for form in forms):
            return len(rest)
        at = tail.find(start, at + 1)
    return next((n for n in range(_START - 1, 0, -1) if tail.endswith(start[:n])), 0)


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
