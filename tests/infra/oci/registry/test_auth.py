# SPDX-License-Identifier: Apache-2.0
"""Tokens: a real registry that requires them, and a service that grants or refuses them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from tests.infra.oci.registry.world import LAYERS, World, quiet
from tests.support.fault_proxy import Fault, FaultProxy, in_turn, says
from tests.support.images import write_layout
from tests.support.registry import Registry, Tls, auth_file, make_tls, run_registry
from tests.support.token_service import IDENTITY, SERVICE, TokenService

from waggle.domain.errors import ImageUnavailable, RegistryBusy
from waggle.domain.reference import parse_reference
from waggle.infra.oci.registry.challenge import token_request
from waggle.infra.oci.registry.credentials import Credentials
from waggle.infra.oci.registry.options import ANYWHERE, RegistryOptions

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def guarded(
    tls: Tls, directory: Path, service: TokenService
) -> AsyncGenerator[tuple[Registry, FaultProxy]]:
    """Run a registry that accepts only the tokens of `service`, and the server of that service."""
    async with FaultProxy(tls=tls.context()) as realm:
        realm.break_("/token", service)
        section = service.section(f"https://{realm.name}/token?kept=1")
        with run_registry(directory, tls=tls, token=section) as registry:
            yield registry, realm


async def test_a_password_is_exchanged_for_push_and_pull_tokens(
    tls: Tls, world: World, tmp_path: Path
) -> None:
    service = TokenService(tls)
    digest = write_layout(world.layout.path, LAYERS, name="mine")
    async with guarded(tls, tmp_path / "registry", service) as (registry, realm):
        file = auth_file(tmp_path / "auth.json", f"{registry.name}/team")
        options = RegistryOptions(ca_pem=tls.ca_pem, auth_files=(file,))
        reference = parse_reference(f"{registry.name}/team/app:v1")
        assert await world.puller(options).push("mine", reference, quiet) == digest
        assert await world.puller(options).pull(reference, quiet) == digest
        assert set(service.grants) == {"repository:team/app:pull,push", "repository:team/app:pull"}
        assert len(realm.requests) == 2  # concurrent blobs share a token
        assert all("kept=1" in request.path for request in realm.requests)
        other = parse_reference(f"{registry.name}/other/app:v1")
        with pytest.raises(ImageUnavailable, match="refuses anonymous access"):
            await world.puller(options).pull(other, quiet)


async def test_an_identity_token_is_posted(tls: Tls, world: World, tmp_path: Path) -> None:
    service = TokenService(tls)
    digest = write_layout(world.layout.path, LAYERS, name="mine")
    async with guarded(tls, tmp_path / "registry", service) as (registry, realm):
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {registry.name: {"identitytoken": IDENTITY}}}))
        options = RegistryOptions(ca_pem=tls.ca_pem, auth_files=(file,))
        reference = parse_reference(f"{registry.name}/app:v1")
        assert await world.puller(options).push("mine", reference, quiet) == digest
        assert {request.method for request in realm.requests} == {"POST"}
        assert not any("authorization" in request.headers for request in realm.requests)


async def test_a_public_image_needs_no_password(tls: Tls, world: World, tmp_path: Path) -> None:
    service = TokenService(tls, public=True)
    digest = write_layout(world.layout.path, LAYERS, name="mine")
    async with guarded(tls, tmp_path / "registry", service) as (registry, _):
        options = RegistryOptions(ca_pem=tls.ca_pem)
        reference = parse_reference(f"{registry.name}/app:v1")
        assert await world.puller(options).push("mine", reference, quiet) == digest


def challenge(realm: FaultProxy) -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer realm="http://{realm.name}/token",service="s"'}


def gives(**fields: object) -> Fault:
    return says(200, body=json.dumps(fields).encode())


async def test_an_expired_token_is_requested_again(
    proxy: FaultProxy, world: World, digest: str
) -> None:
    async with FaultProxy() as realm:
        realm.break_("", in_turn([gives(token="one", expires_in=60), gives(access_token="two")]))
        proxy.break_("/manifests/", says(401, challenge(realm)), times=1)
        proxy.break_("/manifests/", says(429, {"Retry-After": "59"}), times=1)
        proxy.break_("/blobs/", says(401, challenge(realm)), times=1)
        options = RegistryOptions(insecure=frozenset({proxy.name}), parallel=1)
        reference = parse_reference(f"{proxy.name}/app:v1")
        assert await world.puller(options).pull(reference, quiet) == digest
    used = [request.headers.get("authorization") for request in proxy.requests]
    assert used == [None, "Bearer one", None, None, "Bearer two", "Bearer two", "Bearer two"]


@pytest.mark.parametrize(
    "answer, kind",
    [
        (says(401), ImageUnavailable),
        (says(500), RegistryBusy),
        (says(200, body=b"<html>"), ImageUnavailable),
        (says(200, body=b"[" * 100_000), ImageUnavailable),
        (gives(), ImageUnavailable),
        (gives(token=7), ImageUnavailable),
        (gives(token="a\r\nHost: x"), ImageUnavailable),
        (gives(token="x" * 100_000), ImageUnavailable),
        (gives(token="t", expires_in="soon"), ImageUnavailable),
        (says(302, {"Location": "https://elsewhere.example/"}), ImageUnavailable),
    ],
)
async def test_a_token_service_that_misbehaves_is_reported(
    proxy: FaultProxy, world: World, answer: Fault, kind: type[Exception]
) -> None:
    async with FaultProxy() as realm:
        realm.break_("", answer)
        proxy.break_("", says(401, challenge(realm)))  # refuses the service's tokens too
        options = RegistryOptions(insecure=frozenset({proxy.name}), attempts=2)
        with pytest.raises(kind) as caught:
            await world.puller(options).pull(parse_reference(f"{proxy.name}/app:v1"), quiet)
    assert "\r" not in str(caught.value)
    assert world.is_clean()
    assert len(proxy.requests) <= 4


def test_a_token_request_holds_the_password_in_its_header_only() -> None:
    realm = httpx2.URL("https://auth.example/token?a=b%20c")
    known = Credentials("u", "pw&x")
    ask = token_request(realm, SERVICE, ["repository:a:pull", "x:y:z"], known, ANYWHERE)
    assert (ask.method, ask.body) == ("GET", b"")
    assert str(ask.url) == (
        "https://auth.example/token?a=b%20c&service=test+service"
        "&scope=repository%3Aa%3Apull&scope=x%3Ay%3Az&account=u"
    )
    assert "pw" not in repr(ask) + repr(known)
    token = token_request(realm, "s", ["x"], Credentials(identity_token="it"), ANYWHERE)
    assert (token.method, token.url) == ("POST", realm)
    assert b"refresh_token=it" in (token.body if isinstance(token.body, bytes) else b"")
    assert "it" not in repr(token).replace("https", "").replace("limit", "")
