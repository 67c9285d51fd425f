# SPDX-License-Identifier: Apache-2.0
"""TLS over a stream: records that carry nothing, which OpenSSL works through without a pause."""

from __future__ import annotations

import asyncio
import ctypes
import ssl
import sys
from pathlib import Path

import pytest
from tests.support.authorities import Authority

from waggle.infra.net import PeerGone, Stream
from waggle.infra.net.tls import BARREN, FED, Patient, TlsStream, server_context

pytestmark = pytest.mark.anyio
NAME = "api.example.test"
REQUESTED = 1
"""The peer has to change its keys, too, and says so."""
_AT = 3 * 8
"""Where CPython keeps OpenSSL's object in its own."""


class Sends(Stream):
    """A stream whose peer has sent `data`, in pieces as large as they are asked for."""

    def __init__(self) -> None:
        self.data = b""
        self.taken = b""
        self.reads = 0
        self.waits = True

    async def read(self, limit: int = 0) -> bytes:
        self.reads += 1
        while self.waits and not self.data:  # noqa: ASYNC110
            await asyncio.sleep(0)
        piece, self.data = self.data[:limit], self.data[limit:]
        return piece

    async def write(self, data: bytes) -> None:
        self.taken += data


class Client:
    """A client that can ask for new keys, which the standard library cannot."""

    def __init__(self, authority: Authority) -> None:
        context = ssl.create_default_context(cadata=authority.bundle.decode())
        self.received, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.received, self.sent, server_hostname=NAME)
        maps = Path("/proc/self/maps").read_text().splitlines()
        found = [line.split()[-1] for line in maps if "libssl" in line or "_ssl." in line]
        self._library = ctypes.CDLL(sorted(found, key=lambda path: "libssl" not in path)[0])
        self._library.SSL_key_update.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._library.SSL_do_handshake.argtypes = (ctypes.c_void_p,)

    def new_keys(self, count: int) -> bytes:
        """Return so many requests for new keys."""
        inner = getattr(self.tls, "_sslobj")  # noqa: B009 (private)
        pointer = ctypes.c_void_p.from_address(id(inner) + _AT).value
        for _ in range(count):
            assert self._library.SSL_key_update(pointer, REQUESTED) == 1
            assert self._library.SSL_do_handshake(pointer) == 1
        return self.sent.read()


async def connected() -> tuple[Client, Sends, TlsStream]:
    authority = Authority()
    chain = authority.chain(NAME)
    client, below = Client(authority), Sends()
    stream = TlsStream(patient := Patient(below), server_context(chain, b"", None))
    patient.keeps = False
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    below.data = client.sent.read()
    shaking = asyncio.ensure_future(stream.handshake(server=True))
    while not below.taken:  # noqa: ASYNC110 (the stream has no event)
        await asyncio.sleep(0)
    client.received.write(below.taken)
    client.tls.do_handshake()
    below.data, below.taken = client.sent.read(), b""
    await shaking
    below.waits = False
    return client, below, stream


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="it looks into CPython's object")
async def test_a_flood_of_requests_for_new_keys_leaves_the_loop_to_others_and_ends() -> None:
    """The attack: 256 KiB of them took the event loop 0.3 s in one call."""
    client, below, stream = await connected()
    below.data = client.new_keys(100)
    client.tls.write(b"hello")
    below.data += client.sent.read()
    assert await stream.read() == b"hello", "some are fine"
    turns, is_over = 0, False

    async def others() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await asyncio.sleep(0)

    below.data = client.new_keys(2 * BARREN // 27)
    beside = asyncio.ensure_future(others())
    with pytest.raises(PeerGone, match="flood"):
        await stream.read()
    is_over = True
    await beside
    assert turns >= BARREN // FED


async def test_large_data_comes_whole_however_it_is_fed() -> None:
    client, below, stream = await connected()
    body = bytes(range(256)) * 4096
    client.tls.write(body)
    below.data = client.sent.read()
    got = b""
    while len(got) < len(body):
        got += (piece := await stream.read(100_000))
        assert 0 < len(piece) <= 100_000
    assert got == body
    assert below.reads <= 8
    with pytest.raises(PeerGone, match="cut off"):
        await stream.read()
