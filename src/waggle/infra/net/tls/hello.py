# SPDX-License-Identifier: Apache-2.0
"""The first message of a TLS client, read before anybody answers it. Pure.

`ended` needs the name and the protocols that the guest asks for before it connects to the server;
there OpenSSL parses the same bytes again and compares the name once more. `dial` compares the name
with the one that the guest gave the proxy: rules were asked about that one, and a server for many
names would answer for the other. So parsing is strict, since that server may read it otherwise, and
bounded: 16 KiB in at most 16 records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_HELLO: Final = 16 * 1024
MAX_RECORDS: Final = 16
HANDSHAKE: Final = 0x16
_CLIENT_HELLO, _TLS_1_2 = 1, 0x0303
_SERVER_NAME, _ALPN, _VERSIONS = 0, 16, 43

PROTOCOL_VERSION, UNRECOGNIZED_NAME, NO_PROTOCOL, DECODE_ERROR = 70, 112, 120, 50


class BadHello(Exception):
    """No acceptable ClientHello. `alert` is for the guest, `code` and text are for people."""

    def __init__(self, alert: int, code: str, text: str) -> None:
        super().__init__(text)
        self.alert = alert
        self.code = code
        self.text = text

    def record(self) -> bytes:
        """Return the alert as bytes to send."""
        return bytes((21, 3, 3, 0, 2, 2, self.alert))


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client offers. `name` is lower-case, or None if it gave none."""

    name: str | None
    protocols: tuple[str, ...]
    version: int
    """The highest one offered, as on the wire."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise _malformed()
        piece, self.at = self.data[self.at : end], end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        return _Reader(self.take(self.number(size)))

    @property
    def is_empty(self) -> bool:
        return self.at == len(self.data)


def _malformed() -> BadHello:
    return BadHello(DECODE_ERROR, "tls-malformed", "its TLS handshake is malformed")


def message_in(data: bytes) -> bytes | None:
    """Return the first handshake message, joined from its records; None if more bytes are needed.

    Raises BadHello if it is no ClientHello or over the bounds.
    """
    message = b""
    at = 0
    for _ in range(MAX_RECORDS):
        head = data[at : at + 5]
        if head[:1] and head[0] != HANDSHAKE:
            raise _malformed()
        if len(head) < 5:
            return None
        size = int.from_bytes(head[3:5], "big")
        if head[1] != 3 or not 0 < size <= MAX_HELLO:
            raise _malformed()
        body = data[at + 5 : at + 5 + size]
        message += body
        if message[:1] and message[0] != _CLIENT_HELLO:
            raise _malformed()
        if len(message) >= 4:
            whole = 4 + int.from_bytes(message[1:4], "big")
            if whole > MAX_HELLO:
                raise _malformed()
            if len(message) >= whole:
                return message[:whole]
        if len(body) < size:
            return None
        at += 5 + size
    raise _malformed()


def parse_hello(message: bytes) -> Hello:
    """Read a ClientHello. Raises BadHello."""
    reader = _Reader(message)
    reader.take(4)
    version = reader.number(2)
    reader.take(32)
    reader.vector(1)
    reader.vector(2)
    reader.vector(1)
    name, protocols = None, ()
    extensions = _Reader(b"") if reader.is_empty else reader.vector(2)
    seen: set[int] = set()
    while not extensions.is_empty:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise _malformed()
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _name(body)
        elif kind == _ALPN:
            protocols = _protocols(body)
        elif kind == _VERSIONS:
            versions = body.vector(1)
            offered = [versions.number(2) for _ in range(len(versions.data) // 2)]
            # GREASE values are no versions.
            version = max((v for v in offered if v >> 8 == 3), default=0)
    return Hello(name, protocols, version)


def _name(body: _Reader) -> str | None:
    names = body.vector(2)
    if names.number(1) != 0:
        raise _malformed()
    text = names.vector(2).data
    if not names.is_empty or not text or any(not 0x21 <= byte <= 0x7E for byte in text):
        raise _malformed()
    return text.decode("ascii").lower()


def _protocols(body: _Reader) -> tuple[str, ...]:
    found: list[str] = []
    names = body.vector(2)
    while not names.is_empty:
        found.append(names.vector(1).data.decode("latin-1"))
    return tuple(found)


SPOKEN: Final = ("h2", "http/1.1")


def judge(hello: Hello, expected: str) -> tuple[str, ...]:
    """Return the protocols to offer the server, none if the client offers none. Raises BadHello.

    Each once, however often the guest names it: `upstream` keeps a context for every order.
    `expected` is the name that the guest connected to.
    """
    if hello.version < _TLS_1_2:
        text = "it offers TLS 1.1 or older only; use TLS 1.2 or later"
        raise BadHello(PROTOCOL_VERSION, "tls-version", text)
    if hello.name is None:
        text = "its TLS handshake names no host (SNI); use a client that does"
        raise BadHello(UNRECOGNIZED_NAME, "tls-no-name", text)
    if hello.name != expected:
        text = "its TLS handshake names another host than the connection"
        raise BadHello(UNRECOGNIZED_NAME, "tls-other-name", text)
    offered = tuple(dict.fromkeys(name for name in hello.protocols if name in SPOKEN))
    if hello.protocols and not offered:
        text = "it speaks neither HTTP/1.1 nor HTTP/2 inside TLS"
        raise BadHello(NO_PROTOCOL, "tls-no-protocol", text)
    return offered
