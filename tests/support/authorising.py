# SPDX-License-Identifier: Apache-2.0
"""A small OAuth authorization server on loopback, for clients that use the full flow to a token.

Metadata (RFC 8414), dynamic registration (RFC 7591), the code flow with PKCE (RFC 7636), resource
indicators (RFC 8707) and refresh. Refuses everything that the standards say it must, so a client
that gets a token follows them. Uses the keys and tokens of `tests.support.issuer`. There is no
login page: everyone who opens `/authorize` is `user`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
import anyio.abc
from tests.support.issuer import Issuer

Form = Mapping[str, str]


class Refused(Exception):
    """An OAuth error, with its code."""


@dataclass(frozen=True)
class Grant:
    """A grant to a client that has not fetched its token yet."""

    client: str
    redirect: str
    challenge: str
    claims: Mapping[str, str]


@dataclass
class AuthorizationServer:
    """Accepts `user` and grants the requested `scopes`. Tokens last `expires_in` seconds."""

    user: str = "ann"
    scopes: set[str] = field(default_factory=lambda: {"waggle"})
    expires_in: int = 3600
    audience: str = ""
    """Audience of the tokens; by default the resource that the client requested."""
    issuer: Issuer = field(default_factory=Issuer)
    requests: list[str] = field(default_factory=list[str])
    """Every request as `GET /path`; token requests also have their grant type."""
    clients: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    grants: dict[str, Grant] = field(default_factory=dict[str, Grant])
    """Grants by code or refresh token; each can be used once."""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        return self.issuer.url

    def metadata(self) -> dict[str, object]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "jwks_uri": self.issuer.jwks_url,
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
        }

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, str, dict[str, object]]:
        """Return status, redirect location, and document."""
        where = urlsplit(target)
        query = _form(where.query)
        self.requests.append(f"{method} {where.path}")
        match method, where.path:
            case "GET", "/.well-known/oauth-authorization-server":
                return 200, "", self.metadata()
            case "GET", "/keys":
                return 200, "", self.issuer.jwks()
            case "POST", "/register":
                return 201, "", self.register(json.loads(body))
            case "GET", "/authorize":
                return 302, self.authorize(query), {}
            case "POST", "/token":
                return 200, "", self.token(_form(body.decode()))
            case _:
                return 404, "", {}

    def register(self, form: dict[str, Any]) -> dict[str, object]:
        client = f"client-{next(self._numbers)}"
        self.clients[client] = form["redirect_uris"]
        return {**form, "client_id": client, "token_endpoint_auth_method": "none"}

    def authorize(self, form: Form) -> str:
        """Return the location to which the browser is redirected with the code."""
        _check(form["redirect_uri"] in self.clients.get(form["client_id"], []), "invalid_client")
        _check(form["response_type"] == "code", "unsupported_response_type")
        _check(form.get("code_challenge_method") == "S256", "invalid_request")
        _check(bool(form.get("resource")), "invalid_target")
        granted = sorted(self.scopes.intersection(form.get("scope", "").split()))
        claims = {"sub": self.user, "scope": " ".join(granted), "aud": form["resource"]}
        grant = Grant(form["client_id"], form["redirect_uri"], form["code_challenge"], claims)
        code = self._kept("code", grant)
        return f"{grant.redirect}?" + urlencode(
            {"code": code, "state": form["state"], "iss": self.url}
        )

    def token(self, form: Form) -> dict[str, object]:
        """Return the answer with the tokens. A code or refresh token is valid once."""
        kind = form["grant_type"]
        self.requests[-1] += f" {kind}"
        grant = self.grants.pop(form.get("code") or form.get("refresh_token", ""), None)
        if grant is None or grant.client != form["client_id"]:
            raise Refused("invalid_grant")
        _check(form.get("resource") == grant.claims["aud"], "invalid_target")
        if kind == "authorization_code":
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            _check(proof == grant.challenge, "invalid_grant")
            _check(form["redirect_uri"] == grant.redirect, "invalid_grant")
        audience = self.audience or grant.claims["aud"]
        return {
            "access_token": self.issuer.token(**{**grant.claims, "aud": audience}),
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "scope": grant.claims["scope"],
            "refresh_token": self._kept("refresh", grant),
        }

    def _kept(self, kind: str, grant: Grant) -> str:
        name = f"{kind}-{next(self._numbers)}"
        self.grants[name] = grant
        return name


def _check(fine: bool, code: str) -> None:
    if not fine:
        raise Refused(code)


def _form(text: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(text).items()}


async def _request(stream: anyio.abc.SocketStream) -> tuple[str, str, bytes]:
    """Read method, target and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("ascii").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in rest)
    while len(body) < int(fields.get("content-length", "0")):
        body += await stream.receive()
    method, target, _ = first.split(" ")
    return method, target, body


@asynccontextmanager
async def authorising(**given: Any) -> AsyncGenerator[AuthorizationServer]:
    """Run an authorization server for the length of the block."""
    server = AuthorizationServer(**given)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                status, location, document = server.answer(*await _request(stream))
            except Refused as refused:
                status, location, document = 400, "", {"error": str(refused)}
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return
            body = json.dumps(document).encode()
            more = f"Location: {location}\r\n" if location else ""
            head = (
                f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            await stream.send(head.encode() + body)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # no Django here
    server.issuer.url = f"http://127.0.0.1:{port}"
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield server
        group.cancel_scope.cancel()
