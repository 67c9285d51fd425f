# SPDX-License-Identifier: Apache-2.0
"""TLS over a `Stream`, as client and as server, with everything in memory.

Used by this package's modules, which end the guest's TLS for the hosts of its secrets (`ended` is
the way in). asyncio's own TLS needs a transport, and a guest's connection has none: it is a channel
of SSH. OpenSSL is given a little at a time; what is read ahead is at most one piece of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl

from waggle.infra.net import CHUNK, PeerGone, Stream
from waggle.tasks import end

PIECE = 256 * 1024
"""The most bytes of one read."""
FED = 32 * 1024
"""What OpenSSL is given at once: a record can be a request for new keys (27 bytes), which takes it
30 microseconds, and it works through all it has."""
BARREN = 128 * 1024
"""The most bytes in a row that carry no data."""


class TlsFailed(Exception):
    """The handshake failed. The text says why, without bytes of the peer."""


class Patient(Stream):
    """A stream whose reads may be cancelled without a loss; the caller still ends that below.

    A metered stream waits for its turn after it has read: a read cancelled then would lose bytes.
    """

    def __init__(self, below: Stream) -> None:
        self._below = below
        self._reading: asyncio.Task[bytes] | None = None
        self.keeps = True
        """Whether reads may be cancelled now; it costs a task for each."""

    async def read(self, limit: int = CHUNK) -> bytes:
        """Read as `Stream.read`; after a cancelled read, what that one got, whatever the limit."""
        if self._reading is None:
            if not self.keeps:
                return await self._below.read(limit)
            self._reading = asyncio.ensure_future(self._below.read(limit))
        reading = self._reading
        await asyncio.wait({reading})
        self._reading = None
        return reading.result()

    async def write(self, data: bytes) -> None:
        """Write as `Stream.write`."""
        await self._below.write(data)

    def write_eof(self) -> None:
        """End the write direction."""
        self._below.write_eof()

    async def finish(self, flush: float, linger: float) -> None:
        """End as `Stream.finish` does."""
        await self.settle()
        await self._below.finish(flush, linger)

    def abort(self) -> None:
        """Drop the stream at once."""
        self._below.abort()

    async def settle(self) -> None:
        """End a read that nobody waits for. Idempotent."""
        reading, self._reading = self._reading, None
        if reading is not None:
            await end(reading)


class TlsStream(Stream):
    """A stream of clear bytes over a stream of TLS, which the caller still ends."""

    def __init__(self, below: Patient, context: ssl.SSLContext, *, early: bytes = b"") -> None:
        """`early` are bytes that were already read from `below`."""
        self._below = self.patient = below
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._in.write(early)
        self._context = context
        self._tls: ssl.SSLObject
        self._sending = asyncio.Lock()
        self._unfed = b""
        """What was read, and OpenSSL has not been given yet."""
        self._barren = 0
        self._is_cut = False
        """Whether a write was interrupted: what follows it could not be decrypted."""

    async def handshake(self, *, server: bool, name: str | None = None) -> None:
        """Shake hands as a server, or as a client that expects `name`. Raises TlsFailed, PeerGone.

        Has no deadline. The peer gets OpenSSL's alert.
        """
        try:
            self._tls = self._context.wrap_bio(
                self._in, self._out, server_side=server, server_hostname=name
            )
        except ValueError:
            raise TlsFailed("the name cannot be one of a certificate") from None
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send()
                data = await self._below.read()
                if not data:
                    raise PeerGone("hung up in the handshake") from None
                self._in.write(data)
            except ssl.SSLCertVerificationError as error:
                await self._alert()
                raise TlsFailed(_plain(error.verify_message)) from None
            except ssl.SSLError as error:
                await self._alert()
                raise TlsFailed(
                    _plain((error.reason or "broken TLS").lower().replace("_", " "))
                ) from None
            else:
                await self._send()
                return

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on."""
        return self._tls.selected_alpn_protocol()

    async def read(self, limit: int = CHUNK) -> bytes:
        """Read at most `limit` bytes; empty at the end. Raises PeerGone, also if it was cut off."""
        found: list[bytes] = []
        while True:
            data, wants = self._read_now(limit)
            if self._out.pending:
                await self._send()  # an answer to a key update, for example
            if data:
                self._barren = 0
                found.append(data)
                limit -= len(data)
            elif found or not wants:
                break
            if limit <= 0 or not wants or (found and not self._unfed):
                break
            if self._barren > BARREN:
                raise PeerGone("a flood of records without data")
            if not self._unfed:
                self._unfed = await self._below.read(PIECE)
            elif not data:
                await asyncio.sleep(0)
            if not self._unfed:
                raise PeerGone("cut off")  # without the announcement, any prefix could be all
            self._barren += len(self._unfed[:FED])
            self._in.write(self._unfed[:FED])
            self._unfed = self._unfed[FED:]
        return b"".join(found)

    def _read_now(self, limit: int) -> tuple[bytes, bool]:
        """Return what can be read, and whether more may come."""
        pieces: list[bytes] = []
        left = limit
        while left > 0:
            try:
                piece = self._tls.read(left)
            except ssl.SSLWantReadError:
                return b"".join(pieces), True
            except ssl.SSLZeroReturnError:
                piece = b""
            except ssl.SSLError as error:
                raise PeerGone("not valid TLS") from error
            if not piece:
                return b"".join(pieces), False
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces), True

    async def write(self, data: bytes) -> None:
        """Write all of `data` and wait until the buffer is low again. Raises PeerGone."""
        if not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise PeerGone("not valid TLS") from error
        await self._send()

    async def _send(self) -> None:
        async with self._sending:  # records go out in the order in which they were made
            if self._is_cut:
                raise PeerGone("interrupted")
            if data := self._out.read():
                self._is_cut = True
                await self._below.write(data)
                self._is_cut = False

    async def _alert(self) -> None:
        with contextlib.suppress(PeerGone):
            await self._send()

    async def goodbye(self) -> None:
        """Announce the end of the writing direction. Never raises."""
        with contextlib.suppress(PeerGone, ssl.SSLError):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            await self._send()

    async def finish(self, flush: float, linger: float) -> None:
        """Announce the end and end the stream below, as `Stream.finish` does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(flush):
                await self.goodbye()
        await self._below.finish(flush, linger)

    def write_eof(self) -> None:
        """TLS 1.2 has no end of one direction: does nothing."""

    def abort(self) -> None:
        """Drop the stream below at once."""
        self._below.abort()


def _plain(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)[:120]


def server_context(chain: bytes, key: bytes, protocol: str | None) -> ssl.SSLContext:
    """Return a context that shows a certificate and takes one protocol (ALPN), TLS 1.2 or later.

    `chain` and `key` are PEM; they touch no disk.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    # OpenSSL reads them from a path only.
    with os.fdopen(os.memfd_create("leaf", os.MFD_CLOEXEC), "wb") as file:
        file.write(key + chain)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
