# SPDX-License-Identifier: Apache-2.0
"""A token service for docker-registry's `auth: token`: signs requested tokens and records them.

It follows the distribution project's token specification: GET with a password or nothing, POST with
a refresh token.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate
from tests.support.fault_proxy import Exchange
from tests.support.registry import PASSWORD, USER, Tls

SERVICE, ISSUER, IDENTITY = "test service", "test issuer", "identity-token"


@dataclass
class TokenService:
    """Answers requests of a FaultProxy: `proxy.break_("", service)`."""

    tls: Tls
    """Its certificate also signs tokens."""
    life: int = 300
    """Seconds, given in `expires_in`."""
    public: bool = False
    """Whether clients without a user may pull."""
    grants: list[str] = field(default_factory=list[str])
    """The scopes of all tokens that it issued."""

    def section(self, realm: str) -> Mapping[str, str]:
        """Return the registry's configuration."""
        return {
            "realm": realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(self.tls.certificate),
        }

    async def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method == "POST":
            form = parse_qs(request.body.decode())
            known = form.get("refresh_token") == [IDENTITY]
            known = known and form.get("grant_type") == ["refresh_token"]
            scopes = form.get("scope", [""])[0].split()
        else:
            form = parse_qs(urlsplit(request.path).query)
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            given = request.headers.get("authorization")
            known = given == f"Basic {pair}" or (given is None and self.public)
            scopes = form.get("scope", [])
        if not known or form.get("service") != [SERVICE]:
            await exchange.send(401, {}, b'{"errors": []}')
            return
        self.grants += scopes
        body = {"token": self.token(scopes), "expires_in": self.life}
        await exchange.send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def token(self, scopes: list[str]) -> str:
        access: list[dict[str, object]] = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": USER,
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        certificate = load_pem_x509_certificate(Path(self.tls.certificate).read_bytes())
        der = certificate.public_bytes(serialization.Encoding.DER)
        chain = {"x5c": [base64.b64encode(der).decode()]}
        return jwt.encode(claims, self.tls.key.read_text(), "ES256", headers=chain)
