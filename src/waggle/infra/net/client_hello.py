# SPDX-License-Identifier: Apache-2.0
"""The name that a TLS client asks for, read from its first bytes (RFC 8446, 4.1.2; RFC 6066, 3).

`dial` compares it with the name that the guest gave the proxy: rules were asked about that one, and
a server for many names would answer for the other. Pure. The bytes are the guest's: at most
MAX_HELLO of them are looked at, in at most MAX_RECORDS records; what begins as TLS and does not fit
is malformed, and never passes as something else.
"""

from __future__ import annotations

from typing import Final

MAX_HELLO: Final = 16 * 1024
MAX_RECORDS: Final = 16
_HANDSHAKE: Final = 22
_MAJOR: Final = 3
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
ALERT: Final = bytes([21, _MAJOR, 1, 0, 2, 2, 112])
"""A fatal alert, unrecognized_name."""


class MoreNeeded(Exception):
    """The message may become whole when there are `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Malformed(Exception):
    """It begins as TLS, but is no ClientHello that an ordinary client sends."""


class _Short(Exception):
    """A field ends after the data does; `end` is where it would."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _Short(end)
        self._at, begin = end, self._at
        return self._data[begin:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        """Return what a length of so many bytes counts."""
        return _Reader(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self._data[self._at :]

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)


def server_name(data: bytes) -> str | None:
    """Return the name that the client asks for, in lower case without a dot at the end.

    Empty if the client names none; None if this is no TLS. Raises MoreNeeded or Malformed.
    """
    if data[:1] != bytes([_HANDSHAKE]) or data[1:2] not in (b"", bytes([_MAJOR])):
        return None
    try:
        message = _message(data)
    except _Short as short:
        if short.end > MAX_HELLO:
            raise Malformed from None
        raise MoreNeeded(short.end) from None
    try:
        return _name(_Reader(message))
    except (_Short, UnicodeDecodeError):
        raise Malformed from None


def _message(data: bytes) -> bytes:
    """Return the body of the ClientHello, joined from its records."""
    records, joined = _Reader(data), b""
    for _ in range(MAX_RECORDS):
        if records.number(1) != _HANDSHAKE or records.number(1) != _MAJOR:
            break
        records.number(1)
        joined += records.take(records.number(2))
        size = int.from_bytes(joined[1:4], "big")
        if joined[:1] != bytes([_CLIENT_HELLO]) or size > MAX_HELLO:
            break
        if len(joined) >= 4 + size and len(joined) >= 4:
            return joined[4 : 4 + size]
    raise Malformed


def _name(hello: _Reader) -> str:
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    extensions = _Reader(b"") if hello.is_empty else hello.vector(2)
    while not extensions.is_empty:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            return _host_name(body.vector(2))
    return ""


def _host_name(names: _Reader) -> str:
    while not names.is_empty:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            return name.rest().decode("ascii").lower().removesuffix(".")
    return ""
