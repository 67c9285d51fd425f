# SPDX-License-Identifier: Apache-2.0
"""The SDK's OAuth client against the resource server, from a refusal to a call, over real HTTP.

The client knows only the server's URL: it finds the issuer by RFC 9728 and RFC 8414, registers
itself, and gets its token by the code flow with PKCE. The tests follow the redirect as a browser.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from tests.support.authorising import AuthorizationServer, authorising
from tests.support.server import ERAS, LEGACY, NO_TLS, Rig, Setup, created, data_of, serving

from waggle.infra.access.jwks import Jwks
from waggle.infra.access.jwt import JwtRules, JwtVerifier
from waggle.infra.access.tokens_file import EitherVerifier
from waggle.web.access import AccessRules, OAuthResource
from waggle.web.server import bind

pytestmark = pytest.mark.anyio

CALLBACK = "http://127.0.0.1:1/callback"
"""Nothing listens there: the test is the browser, and follows the redirect no further."""


@asynccontextmanager
async def resource_server(issuer: AuthorizationServer) -> AsyncGenerator[Rig]:
    """A waggle server that trusts the issuer for its own URL."""
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    keys = Jwks(issuer.url, None, tls=NO_TLS, monotonic=time.monotonic)
    rules = JwtRules(issuer.url, url, "waggle")
    issued = JwtVerifier(rules, keys, now=time.time, monotonic=time.monotonic)
    access = AccessRules(EitherVerifier(None, issued), OAuthResource(url, issuer.url, "waggle"))
    async with serving(Setup(access=access), listener) as rig:
        yield rig


@dataclass
class Storage:
    """The storage that a client keeps between its runs."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Browser:
    """A browser that opens the client's URL and returns the issuer's code."""

    def __init__(self) -> None:
        self.location = ""

    async def go(self, url: str) -> None:
        async with httpx2.AsyncClient(timeout=20, verify=NO_TLS) as http:
            answer = await http.get(url)
        assert answer.status_code == 302, answer.text
        self.location = answer.headers["location"]

    async def back(self) -> AuthorizationCodeResult:
        assert self.location.startswith(f"{CALLBACK}?")
        given = {name: value for name, (value,) in parse_qs(urlsplit(self.location).query).items()}
        return AuthorizationCodeResult(code=given["code"], state=given["state"], iss=given["iss"])


@asynccontextmanager
async def authorised(rig: Rig, era: str, storage: Storage | None = None) -> AsyncGenerator[Client]:
    """A client without a token, which gets one as the server's refusal directs."""
    async with calling(rig, era, provider_for(rig, storage or Storage())) as client:
        yield client


def provider_for(rig: Rig, storage: Storage) -> OAuthClientProvider:
    browser = Browser()
    about = OAuthClientMetadata.model_validate(
        {"client_name": "test", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
    )
    return OAuthClientProvider(rig.mcp, about, storage, browser.go, browser.back)


@asynccontextmanager
async def calling(rig: Rig, era: str, provider: OAuthClientProvider) -> AsyncGenerator[Client]:
    async with httpx2.AsyncClient(auth=provider, timeout=20, verify=NO_TLS) as http:
        transport = streamable_http_client(rig.mcp, http_client=http)
        async with Client(transport, mode=era, read_timeout_seconds=20) as client:
            yield client


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_gets_a_token_from_the_url_alone(era: str) -> None:
    storage = Storage()
    async with authorising() as issuer, resource_server(issuer) as rig:
        async with authorised(rig, era, storage) as client:
            environment = await created(client)
            (found,) = rig.services.environments.all()
        assert (found.id, found.owner) == (environment, f"{issuer.url}#ann")
        assert issuer.requests == [
            "GET /.well-known/oauth-authorization-server",
            "POST /register",
            "GET /authorize",
            "POST /token authorization_code",
            "GET /.well-known/oauth-authorization-server",  # the server, for the keys
            "GET /keys",
        ]
        assert storage.tokens is not None
        assert storage.tokens.scope == "waggle"


async def test_a_clients_next_run_needs_no_browser_or_registration() -> None:
    storage = Storage()
    async with authorising() as issuer, resource_server(issuer) as rig:
        async with authorised(rig, LEGACY, storage) as client:
            environment = await created(client)
        issuer.requests.clear()
        async with authorised(rig, LEGACY, storage) as client:
            listed = data_of(await client.call_tool("list_environments", {}))
        assert [shown["environment_id"] for shown in listed["environments"]] == [environment]
        assert issuer.requests == []


@pytest.mark.parametrize("era", ERAS)
async def test_an_expired_token_is_refreshed(era: str) -> None:
    async with authorising() as issuer, resource_server(issuer) as rig:
        provider = provider_for(rig, storage := Storage())
        async with calling(rig, era, provider) as client:
            await client.call_tool("list_environments", {})
            first = storage.tokens
            provider.context.token_expiry_time = 1.0  # long ago
            issuer.requests.clear()
            assert data_of(await client.call_tool("list_environments", {})).get("count", 0) == 0
        assert issuer.requests == ["POST /token refresh_token"]
        assert storage.tokens != first


async def test_two_users_do_not_see_each_others_environments() -> None:
    async with (
        authorising() as issuer,
        resource_server(issuer) as rig,
        authorised(rig, LEGACY) as ann,
    ):
        await created(ann)
        issuer.user = "bob"
        async with authorised(rig, LEGACY) as bob:
            assert data_of(await bob.call_tool("list_environments", {})).get("count", 0) == 0
        assert data_of(await ann.call_tool("list_environments", {}))["count"] == 1


async def test_a_token_for_another_resource_is_refused() -> None:
    async with (
        authorising(audience="https://other.test/mcp") as issuer,
        resource_server(issuer) as rig,
    ):
        with pytest.raises(BaseExceptionGroup) as refused:
            async with authorised(rig, LEGACY):
                raise AssertionError("it was let in")
        assert not refused.group_contains(AssertionError)
        assert issuer.requests.count("GET /authorize") == 1


async def test_a_token_without_the_scope_is_refused() -> None:
    async with authorising(scopes=set[str]()) as issuer, resource_server(issuer) as rig:
        with pytest.raises(BaseExceptionGroup) as refused:
            async with authorised(rig, LEGACY):
                raise AssertionError("it was let in")
        assert not refused.group_contains(AssertionError)
        issuer.scopes = {"waggle"}
        async with authorised(rig, LEGACY) as client:
            assert data_of(await client.call_tool("list_environments", {})).get("count", 0) == 0
