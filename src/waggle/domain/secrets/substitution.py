# SPDX-License-Identifier: Apache-2.0
"""Where in a request a placeholder may stand, and the request with values in their places. Pure.

`infra.net.tls` calls `examine` for the head of every request, has the values fetched, and calls
`Plan.filled`. What is not allowed is a `Misplaced`, whose text tells an agent the next step. All of
it is linear in the size of the head, and a head has at most MAX_USES placeholders. Basic
credentials are decoded, filled and encoded again. `Finder` finds placeholders in a body that comes
in pieces.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote_from_bytes

from waggle.domain.secrets import MAX_PLACEHOLDER, Granted, Secret, SecretValue

MAX_USES: Final = 16
"""The most placeholders in the head of one request."""
Header = tuple[bytes, bytes]
_BASIC = re.compile(rb"(?i:basic +)([A-Za-z0-9+/_-]+={0,2})[ \t]*")
_MARK: Final = b"waggle-"


class Misplaced(Exception):
    """A placeholder where it must not be. `code` is stable; the text is for an agent."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def elsewhere(secret: Secret | None, name: str, host: str) -> Misplaced:
    """Return the refusal of a placeholder on its way to a host of no business with it."""
    if secret is None:
        return gone(name)
    text = (
        f"the placeholder of secret '{name}' was not sent to {host}: the secret may go only to "
        f"{', '.join(secret.hosts)}, over https. Send it there, or ask the operator to add the "
        f"host to the secret."
    )
    return Misplaced("secret-host", text)


def in_the_clear(secret: Secret | None, name: str) -> Misplaced:
    """Return the refusal of a placeholder in a connection without TLS."""
    if secret is None:
        return gone(name)
    text = (
        f"the placeholder of secret '{name}' was not sent without TLS. "
        f"Use https:// and one of its hosts: {', '.join(secret.hosts)}."
    )
    return Misplaced("secret-plain", text)


def gone(name: str) -> Misplaced:
    """Return the refusal of a secret that the operator removed."""
    text = (
        f"the operator has removed secret '{name}', or no longer lets this owner use it. Ask the "
        "operator, or send the request without its placeholder."
    )
    return Misplaced("secret-gone", text)


def misplaced(secret: Secret | None, name: str, found_in: str) -> Misplaced:
    """Return the refusal of a placeholder in a part of the request that it may not be in."""
    if secret is None:
        return gone(name)
    text = (
        f"the placeholder of secret '{name}' is in {found_in} of the request, where nothing "
        f"replaces it. Put ${secret.variable} into {secret.where()}."
    )
    return Misplaced("secret-place", text)


def _unknown(found_in: str) -> Misplaced:
    text = (
        f"{found_in} has a placeholder that is cut, or of another environment. Use the variables "
        "of this environment unchanged."
    )
    return Misplaced("secret-unknown", text)


def _too_many() -> Misplaced:
    return Misplaced("secret-count", f"a request may have {MAX_USES} placeholders in its head.")


@dataclass(slots=True)
class Plan:
    """A request's head, and what has to be filled in."""

    target: bytes
    headers: Sequence[Header]
    needed: set[str] = field(default_factory=set[str])
    """The names of the secrets whose values `filled` needs."""

    def filled(
        self, granted: Granted, values: Mapping[str, SecretValue]
    ) -> tuple[bytes, list[Header], list[bytes]]:
        """Return target, headers, and encoded forms that hold a value and must not come back."""
        if not self.needed:
            return self.target, list(self.headers), []
        encoded: list[bytes] = []

        def value(match: re.Match[bytes]) -> bytes:
            return values[granted.name_of(match[0]) or ""].reveal()

        def quoted(match: re.Match[bytes]) -> bytes:
            return quote_from_bytes(value(match), safe="").encode("ascii")

        headers: list[Header] = []
        for name, text in self.headers:
            credentials = credentials_in(text)
            if credentials is not None and _MARK in credentials:
                packed = base64.b64encode(_ANY.sub(value, credentials))
                encoded.append(packed)
                headers.append((name, text[: len("Basic")] + b" " + packed))
            else:
                headers.append((name, _ANY.sub(value, text)))
        return _ANY.sub(quoted, self.target), headers, encoded


_ANY = re.compile(rb"waggle-[a-z0-9_]{1,32}-[0-9a-f]{32}(?![0-9a-f])")


def credentials_in(text: bytes) -> bytes | None:
    """Return the decoded credentials of a Basic header, or None."""
    match = _BASIC.fullmatch(text)
    if match is None:
        return None
    packed = match[1].translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        return None


def examine(granted: Granted, host: str, target: bytes, headers: Sequence[Header]) -> Plan:
    """Judge every placeholder in a request's head for `host`. Raises Misplaced.

    `target` is path and query; names of headers may be in any case.
    """
    plan = Plan(target, headers)
    uses = 0
    path, question, query = target.partition(b"?")
    checks = [(path, b"", "the path"), (query, b"?", "the query")] if question else []
    checks = checks or [(path, b"", "the path")]
    for name, text in headers:
        _refuse_in(granted, host, name, "a header's name")
        checks.append((text, name.lower(), "a header"))
        credentials = credentials_in(text)
        if credentials is not None:
            checks.append((credentials, name.lower(), "the credentials"))
    for text, place, words in checks:
        if _MARK not in text:
            continue
        for name in _names_in(granted, text, words):
            secret = _permitted(granted, name, host)
            if not _fits(secret, place):
                what = f"the header {place.decode('latin-1')}" if place[:1].isalnum() else words
                raise misplaced(secret, name, what)
            plan.needed.add(name)
            uses += 1
            if uses > MAX_USES:
                raise _too_many()
    return plan


def _fits(secret: Secret, place: bytes) -> bool:
    if place == b"?":
        return secret.may_be_in_query
    return bool(place) and secret.may_be_in_header(place)


def _permitted(granted: Granted, name: str, host: str) -> Secret:
    secret = granted.secret(name)
    if secret is None or not secret.may_go_to(host):
        raise elsewhere(secret, name, host)
    return secret


def _refuse_in(granted: Granted, host: str, text: bytes, words: str) -> None:
    if _MARK in text.lower():
        for name in _names_in(granted, text.lower(), words):
            raise misplaced(_permitted(granted, name, host), name, words)


def _names_in(granted: Granted, text: bytes, words: str) -> list[str]:
    """Return the secrets of the placeholders in a text. Raises Misplaced for a part of one."""
    names: list[str] = []
    for match in _cut(granted).finditer(text):
        name = granted.name_of(match[0])
        if name is None:
            raise _unknown(words)
        names.append(name)
        if len(names) > MAX_USES:
            raise _too_many()
    return names


def _cut(granted: Granted) -> re.Pattern[bytes]:
    """Match a placeholder of any environment, or what begins like one of this environment."""
    names = b"|".join(re.escape(name.encode("ascii")) for name in granted.names)
    return re.compile(_ANY.pattern + rb"|waggle-(?:" + names + rb")-[0-9a-f]{4,}")


class Finder:
    """Finds placeholders in bytes that come in pieces; cheap, and linear."""

    def __init__(self, placeholders: Iterable[bytes]) -> None:
        # What all have in common is searched for as fixed bytes.
        self._pattern = re.compile(b"|".join(map(re.escape, placeholders)) or b"(?!)")
        self._tail = b""

    def feed(self, piece: bytes | bytearray) -> bytes | None:
        """Return a placeholder that ends in this piece, if there is one."""
        edge = self._tail + piece[:MAX_PLACEHOLDER]
        match = self._pattern.search(edge) or self._pattern.search(piece)
        if match is not None:
            return bytes(match[0])  # a piece may be a bytearray
        self._tail = bytes(self._tail + piece[-MAX_PLACEHOLDER:])[-MAX_PLACEHOLDER + 1 :]
        return None
