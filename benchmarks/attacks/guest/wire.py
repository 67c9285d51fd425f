# SPDX-License-Identifier: Apache-2.0
"""Packets and the key exchange of `server` beside it. Runs in the guest.

Curves are OpenSSL's libcrypto by ctypes; packets are sealed by seal.c.
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import struct

KEY_EXCHANGE, HOST_KEY, CIPHER = (
    b"curve25519-sha256",
    b"ssh-ed25519",
    b"chacha20-poly1305@openssh.com",
)
X25519, ED25519 = 1034, 1087
"""OpenSSL's numbers."""
VERSION = b"SSH-2.0-hostile"


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def string(data: bytes) -> bytes:
    return number(len(data)) + data


def mpint(data: bytes) -> bytes:
    data = data.lstrip(b"\0")
    return string(b"\0" + data if data and data[0] & 0x80 else data)


class Reader:
    """Reads the fields of a packet, from offset `at`."""

    def __init__(self, data: bytes, at: int = 1) -> None:
        self.data, self.at = data, at

    def number(self) -> int:
        self.at += 4
        return int.from_bytes(self.data[self.at - 4 : self.at], "big")

    def string(self) -> bytes:
        size = self.number()
        self.at += size
        return self.data[self.at - size : self.at]


class Crypto:
    """OpenSSL's elliptic curves, with raw keys."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libcrypto.so.3")
        for name in ("EVP_PKEY_new_raw_private_key", "EVP_PKEY_new_raw_public_key",
                     "EVP_PKEY_CTX_new", "EVP_MD_CTX_new"):  # fmt: skip
            getattr(self._lib, name).restype = ctypes.c_void_p

    def _key(self, kind: int, raw: bytes, *, private: bool) -> ctypes.c_void_p:
        name = f"EVP_PKEY_new_raw_{'private' if private else 'public'}_key"
        return ctypes.c_void_p(getattr(self._lib, name)(kind, None, raw, ctypes.c_size_t(32)))

    def public(self, private: bytes) -> bytes:
        out, size = ctypes.create_string_buffer(32), ctypes.c_size_t(32)
        key = self._key(X25519, private, private=True)
        self._lib.EVP_PKEY_get_raw_public_key(key, out, ctypes.byref(size))
        return out.raw

    def shared(self, private: bytes, theirs: bytes) -> bytes:
        out, size = ctypes.create_string_buffer(32), ctypes.c_size_t(32)
        key = self._key(X25519, private, private=True)
        context = ctypes.c_void_p(self._lib.EVP_PKEY_CTX_new(key, None))
        self._lib.EVP_PKEY_derive_init(context)
        self._lib.EVP_PKEY_derive_set_peer(context, self._key(X25519, theirs, private=False))
        self._lib.EVP_PKEY_derive(context, out, ctypes.byref(size))
        return out.raw

    def signature(self, seed: bytes, data: bytes) -> bytes:
        out, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
        context = ctypes.c_void_p(self._lib.EVP_MD_CTX_new())
        key = self._key(ED25519, seed, private=True)
        self._lib.EVP_DigestSignInit(context, None, None, None, key)
        signing = (context, out, ctypes.byref(size), data, ctypes.c_size_t(len(data)))
        self._lib.EVP_DigestSign(*signing)
        return out.raw


class Wire:
    """Packets of one connection, plain until `encrypt`."""

    def __init__(self, connection: socket.socket, directory: str) -> None:
        self.connection = connection
        self._seal = ctypes.CDLL(f"{directory}/seal.so")
        self._seal.seal.restype = ctypes.c_size_t
        self._seal.length.restype = ctypes.c_uint32
        self._keys: tuple[bytes, bytes] | None = None
        self._sent = self._received = 0
        self._out = ctypes.create_string_buffer(1 << 20)

    def exactly(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            part = self.connection.recv(size - len(data))
            if not part:
                raise SystemExit
            data += part
        return data

    def encrypt(self, to_server: bytes, to_client: bytes) -> None:
        self._keys = (to_server, to_client)

    def send(self, payload: bytes, count: int = 1, at: int = -1, first: int = 0) -> None:
        """Send `count` packets; at offset `at` each has its own number, counted up from `first`."""
        if self._keys is None:
            padding = 8 - (5 + len(payload)) % 8
            padding += 8 if padding < 4 else 0
            head = struct.pack(">IB", 1 + len(payload) + padding, padding)
            self.connection.sendall(head + payload + bytes(padding))
        else:
            size = self._seal.seal(
                self._keys[1], ctypes.c_uint32(self._sent), payload, ctypes.c_size_t(len(payload)),
                ctypes.c_long(at), ctypes.c_uint32(first), ctypes.c_uint32(count), self._out,
            )  # fmt: skip
            self.connection.sendall(memoryview(self._out)[:size])
        self._sent = (self._sent + count) & 0xFFFFFFFF

    def receive(self) -> bytes:
        head = self.exactly(4)
        if self._keys is None:
            body = self.exactly(int.from_bytes(head, "big"))
        else:
            key, sequence = self._keys[0], ctypes.c_uint32(self._received)
            body = self.exactly(self._seal.length(key, sequence, bytes(head)) + 16)[:-16]
            place = (ctypes.c_char * len(body)).from_buffer(body)
            self._seal.unseal(key, sequence, place, ctypes.c_size_t(len(body)))
            del place
        self._received = (self._received + 1) & 0xFFFFFFFF
        return bytes(body[1 : len(body) - body[0]])


def kexinit() -> bytes:
    offered = [KEY_EXCHANGE, HOST_KEY, CIPHER, CIPHER, *[b"hmac-sha2-256"] * 2, *[b"none"] * 2]
    return bytes([20]) + bytes(16) + b"".join(map(string, [*offered, b"", b""])) + bytes(5)


def exchange_keys(wire: Wire, host_key: bytes) -> None:
    crypto = Crypto()
    line = bytearray()
    wire.connection.sendall(VERSION + b"\r\n")
    while not line.endswith(b"\n"):
        line += wire.exactly(1)
    ours = kexinit()
    wire.send(ours)
    theirs = wire.receive()
    their_public = Reader(wire.receive()).string()
    ephemeral = hashlib.sha256(host_key + their_public).digest()  # as secret as it needs to be
    public = crypto.public(ephemeral)
    secret = mpint(crypto.shared(ephemeral, their_public))
    shown = string(HOST_KEY) + string(host_key[32:])
    said = (bytes(line).rstrip(b"\r\n"), VERSION, theirs, ours, shown, their_public, public)
    digest = hashlib.sha256(b"".join(map(string, said)) + secret).digest()
    signed = string(HOST_KEY) + string(crypto.signature(host_key[:32], digest))
    wire.send(bytes([31]) + string(shown) + string(public) + string(signed))
    wire.send(bytes([21]))
    assert wire.receive()[0] == 21

    def key(letter: bytes) -> bytes:
        first = hashlib.sha256(secret + digest + letter + digest).digest()
        return first + hashlib.sha256(secret + digest + first).digest()

    wire.encrypt(key(b"C"), key(b"D"))
