# SPDX-License-Identifier: Apache-2.0
"""Placeholders in what a guest sends without TLS that this proxy ends: found, and refused.

`egress` uses it for plain requests and for tunnels to other hosts, `ended` for what is not TLS. A
value is never put in here. What a guest encrypts or encodes is not seen, which costs nothing: a
placeholder is worth nothing to others. The point is that an agent reads why a login failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from waggle.domain.secrets import Granted
from waggle.domain.secrets.substitution import (
    Finder,
    Header,
    credentials_in,
    elsewhere,
    in_the_clear,
)
from waggle.infra.net import CHUNK, PeerGone, Stream, relay
from waggle.infra.net.guest_request import Refusal, Target
from waggle.infra.net.tls.admission import Terms, refused
from waggle.infra.net.tls.hello import HANDSHAKE

_HTTP = re.compile(rb"[A-Z]{3,10} [!-~]+ HTTP/1\.[01]\r?\n")


class PlainWatch:
    """The watch over one environment's connections without ended TLS."""

    def __init__(self, granted: Granted) -> None:
        self._granted = granted

    def judge_head(
        self, target: Target, path: str, headers: Sequence[Header], terms: Terms
    ) -> None:
        """Judge the head of a plain request. Raises Refusal."""
        decoded = (credentials_in(value) for _, value in headers)
        texts = [path.encode("ascii"), *(part for header in headers for part in header)]
        texts += [found for found in decoded if found is not None]
        self.inspector(target, terms)(b"\n".join(texts))

    def inspector(self, target: Target, terms: Terms) -> Callable[[bytes], None]:
        """Return what looks at the pieces of a plain request, and raises Refusal."""
        finder = Finder(self._granted.placeholders)

        def inspect(data: bytes) -> None:
            if (placeholder := finder.feed(data)) is not None:
                raise self._refused(placeholder, target, terms)

        return inspect

    def _refused(self, placeholder: bytes, target: Target, terms: Terms) -> Refusal:
        """Return the recorded refusal of a placeholder that would go out in the clear."""
        name = self._granted.name_of(placeholder) or ""
        secret = self._granted.secret(name)
        if secret is not None and secret.may_go_to(target.host.removesuffix(".")):
            error = in_the_clear(secret, name)
        else:
            error = elsewhere(secret, name, target.host)
        refusal = refused(403, error.code, target.host, error.text)
        terms.denied(target, error.code, error.text)
        return refusal

    async def relay(
        self,
        client: Stream,
        upstream: Stream,
        target: Target,
        begun: tuple[bytes, bytes],
        terms: Terms,
    ) -> None:
        """Relay a tunnel, and break it off when a placeholder is seen in it.

        `begun` is what was already read from the two sides. Raises PeerGone, TimeoutError.
        """
        first, spoke = begun
        if spoke:
            await client.write(spoke)
        watched = _Watched(client, first, Finder(self._granted.placeholders))
        try:
            await relay(watched, upstream, b"", terms.limits.idle_seconds, terms.begin)
        except PeerGone:
            if watched.found is None:
                raise
            refusal = self._refused(watched.found, target, terms)
            if watched.is_http:
                await client.write(_as_http(refusal))


class _Watched(Stream):
    """The guest's side of a relay; reading fails once a placeholder was seen outside of TLS."""

    def __init__(self, client: Stream, first: bytes, finder: Finder) -> None:
        self._client = client
        self._first = first
        self._finder = finder
        self._is_tls: bool | None = None
        self.is_http = False
        self.found: bytes | None = None

    async def read(self, limit: int = CHUNK) -> bytes:
        data, self._first = self._first, b""
        data = data or await self._client.read(limit)
        if self._is_tls is None and data:
            self._is_tls = data[0] == HANDSHAKE
            self.is_http = _HTTP.match(data) is not None
        if not self._is_tls and (found := self._finder.feed(data)) is not None:
            self.found = found
            raise PeerGone("a placeholder")
        return data

    async def write(self, data: bytes) -> None:
        await self._client.write(data)

    def write_eof(self) -> None:
        self._client.write_eof()


def _as_http(refusal: Refusal) -> bytes:
    body = f"{refusal.text}\n".encode("ascii", "replace")
    name, code = refusal.header
    head = (
        b"HTTP/1.1 %d %s\r\n%s: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n"
    )
    return head % (refusal.status, code, name, code, len(body)) + body
