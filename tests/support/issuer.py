# SPDX-License-Identifier: Apache-2.0
"""An OAuth issuer on loopback: real keys, its metadata and JWKS over real HTTP, and tokens."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, cast

import anyio
import anyio.abc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE = "https://waggle.test/mcp"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Answers = Literal["well", "late", "never", "huge", "error", "redirect", "nonsense", "no keys"]


@cache
def private_key(kind: str, name: str = "") -> Private:
    """Return a key of that kind, a different one for every `name`. RSA keys are slow to make."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "weak":
        return rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
    if kind == "ed":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP384R1() if kind == "ec384" else ec.SECP256R1())


ALGORITHMS = {"rsa": "RS256", "weak": "RS256", "ec": "ES256", "ec384": "ES384", "ed": "EdDSA"}


def public_pem(key: Private) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwk(kid: str, key: Private, **more: object) -> dict[str, Any]:
    """Return the public key as a JWKS shows it."""
    kind = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    kind = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else kind
    public = cast("Any", get_default_algorithms()[kind]).to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "use": "sig", **more}


def forged(header: Mapping[str, object], claims: Mapping[str, object]) -> str:
    """Return a token without a signature."""
    parts = (json.dumps(part).encode() for part in (header, claims))
    return ".".join([base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts]) + "."


@dataclass
class Issuer:
    """Signs with `keys` (kid to kind); its JWKS shows those in `shown`."""

    url: str = ""
    keys: dict[str, str] = field(default_factory=lambda: {"k1": "ec", "r1": "rsa"})
    shown: set[str] | None = None
    answers: Answers = "well"
    requests: list[str] = field(default_factory=list[str])
    more: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    metadata: dict[str, object] = field(default_factory=dict[str, object])
    release: anyio.Event = field(default_factory=anyio.Event)
    """Releases the `late` answers."""

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    @property
    def fetched(self) -> int:
        """The number of requests for its keys."""
        return self.requests.count("/keys")

    def claims(self, **changes: object) -> dict[str, Any]:
        """Return the claims of a good token with changes; None removes a claim."""
        now = int(time.time())
        good: dict[str, object] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": now + 100_000,
            "iat": now,
            "scope": "openid waggle",
        }
        return {name: v for name, v in {**good, **changes}.items() if v is not None}

    def token(self, kid: str = "k1", **changes: object) -> str:
        kind = self.keys.get(kid, "ec")
        key = private_key(kind, kid)
        return jwt.encode(
            self.claims(**changes), key, algorithm=ALGORITHMS[kind], headers={"kid": kid}
        )

    def jwks(self) -> dict[str, Any]:
        names = self.keys.keys() if self.shown is None else self.shown
        return {"keys": [*(jwk(k, private_key(self.keys[k], k)) for k in names), *self.more]}

    def document(self, path: str) -> dict[str, Any] | None:
        if path == "/keys":
            return self.jwks()
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": self.jwks_url, **self.metadata}
        return None

    async def answer(self, path: str, stream: anyio.abc.SocketStream) -> None:
        if self.answers == "never":
            await anyio.sleep_forever()
        if self.answers == "late":
            await self.release.wait()
        document = self.document(path)
        status, body = (404, b"") if document is None else (200, json.dumps(document).encode())
        more = ""
        if self.answers == "error":
            status = 500
        elif self.answers == "redirect":
            status, more = 302, f"Location: {self.url}/elsewhere\r\n"
        elif self.answers == "nonsense":
            body = b"[" * 100_000
        elif self.answers == "no keys":
            body = b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'
        elif self.answers == "huge":
            await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{")
            while True:
                await stream.send(b" " * 65_536)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n"
        await stream.send(head.encode() + b"\r\n" + body)


@asynccontextmanager
async def issuing(**given: Any) -> AsyncGenerator[Issuer]:
    """Run an issuer for the length of the block."""
    issuer = Issuer(**given)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            head = b""
            try:
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                path = head.split()[1].decode()
                issuer.requests.append(path)
                await issuer.answer(path, stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # no Django here
    issuer.url = f"http://127.0.0.1:{port}"
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield issuer
        group.cancel_scope.cancel()
