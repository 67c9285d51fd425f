# SPDX-License-Identifier: Apache-2.0
"""ClientHello messages, of real clients and of nobody: read, or refused with an alert."""

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.net.tls.hello import (
    MAX_HELLO,
    BadHello,
    Hello,
    judge,
    message_in,
    parse_hello,
)


def real(name: str | None, *protocols: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def read(data: bytes) -> Hello:
    message = message_in(data)
    assert message is not None
    return parse_hello(message)


def extended(kind: int, body: bytes) -> bytes:
    """Return a real hello with one more extension."""
    data = real("a.example.org")
    message = bytearray(data[9:])
    at = 34 + 1 + message[34]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    at += 1 + message[at]
    extra = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body
    size = int.from_bytes(message[at : at + 2], "big") + len(extra)
    message[at : at + 2] = size.to_bytes(2, "big")
    message += extra
    whole = b"\x01" + len(message).to_bytes(3, "big") + message
    return b"\x16\x03\x01" + len(whole).to_bytes(2, "big") + whole


def test_a_real_hello() -> None:
    hello = read(real("API.example.org", "h2", "http/1.1", "acme"))
    assert hello == Hello("api.example.org", ("h2", "http/1.1", "acme"), 0x0304)
    assert judge(hello, "api.example.org") == ("h2", "http/1.1")
    assert read(real(None)) == Hello(None, (), 0x0304)


def test_a_protocol_that_is_named_often_is_offered_once() -> None:
    """Each order of protocols costs all environments a context of 20 ms, which is kept."""
    hello = read(real("a.example.org", *["http/1.1", "h2"] * 500, "http/1.1"))
    assert judge(hello, "a.example.org") == ("http/1.1", "h2")


def test_records_may_split_it_anywhere() -> None:
    data = real("a.example.org", "h2")
    body = data[5:]
    for size in (1, 100):
        parts = [body[at : at + size] for at in range(0, size * 6, size)] + [body[size * 6 :]]
        split = b"".join(b"\x16\x03\x01" + len(p).to_bytes(2, "big") + p for p in parts if p)
        assert read(split) == read(data)
    for end in range(len(data)):
        assert message_in(data[:end]) is None


def test_the_outer_name_of_an_encrypted_hello_counts() -> None:
    hello = read(extended(0xFE0D, b"encrypted"))
    with pytest.raises(BadHello, match="another host"):
        judge(hello, "inner.example.org")


@pytest.mark.parametrize("kind", [0, 16, 43])
def test_the_same_extension_twice_is_refused(kind: int) -> None:
    first = extended(0xAAAA, b"")  # GREASE
    assert read(first).name == "a.example.org"
    body = {0: b"\0\x05\0\0\x02ab", 16: b"\0\x03\x02h2", 43: b"\x02\x03\x04"}[kind]
    data = extended(kind, body)
    if kind == 16:
        assert read(data).protocols == ("h2",)
    else:
        with pytest.raises(BadHello):
            read(data)


def test_a_hello_without_an_end_is_refused() -> None:
    many = b"".join(b"\x16\x03\x01\x00\x01%c" % byte for byte in (1, 0, 16, *(0,) * 14))
    with pytest.raises(BadHello):
        message_in(many)
    for odd in (b"\x16\x03\x01\0\0" * 2, b"\x16\x03\x01\0\4\2\0\0\0", b"\x16\x03\x01\xff\xff"):
        with pytest.raises(BadHello):  # nothing, another message, and too much
            message_in(odd)
    large = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"x" * MAX_HELLO
    with pytest.raises(BadHello):
        message_in(large)


@given(st.binary(max_size=400), st.integers(0, 300), st.binary(max_size=20))
def test_any_bytes_are_read_or_refused(data: bytes, at: int, put: bytes) -> None:
    base = real("a.example.org", "h2")
    for hello in (data, base[:at] + put + base[at + len(put) :], b"\x16\x03\x01" + data):
        with contextlib.suppress(BadHello):
            message = message_in(hello)
            if message is not None:
                parse_hello(message)
