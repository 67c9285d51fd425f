# SPDX-License-Identifier: Apache-2.0
"""Where a registry may redirect, and that credentials never follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.infra.oci.registry.world import World, quiet
from tests.support.fault_proxy import Exchange, FaultProxy, says
from tests.support.registry import Registry, Tls, make_tls

from waggle.domain.errors import ImageUnavailable
from waggle.domain.reference import parse_reference
from waggle.infra.oci.registry.options import Reach, RegistryOptions

pytestmark = pytest.mark.anyio

MANIFESTS, LAYER = "/manifests/", "GET .*/blobs/"
BASIC = {"WWW-Authenticate": 'Basic realm="x"'}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


def passwords(path: Path, *names: str) -> tuple[Path, ...]:
    entries = {name: {"username": "u", "password": "secret-pw"} for name in names}
    path.write_text(json.dumps({"auths": entries}))
    return (path,)


async def test_credentials_do_not_follow_a_redirect_to_another_host(
    proxy: FaultProxy, registry: Registry, world: World, digest: str, tmp_path: Path
) -> None:
    async def to_storage(exchange: Exchange) -> None:
        location = f"http://{storage.name}{exchange.request.path}?signature=s"
        await exchange.send(307, {"Location": location}, b"")

    async with FaultProxy(registry.port) as storage:
        proxy.break_(MANIFESTS, says(401, BASIC), times=1)
        proxy.break_(LAYER, to_storage)
        options = RegistryOptions(
            insecure=frozenset({proxy.name, storage.name}),
            auth_files=passwords(tmp_path / "auth.json", proxy.name, storage.name),
        )
        reference = parse_reference(f"{proxy.name}/app:v1")
        assert await world.puller(options).pull(reference, quiet) == digest
        assert all("authorization" in r.headers for r in proxy.seen(LAYER))
        assert len(storage.requests) == 3
        assert not any("authorization" in r.headers for r in storage.requests)


async def test_a_challenge_from_the_target_of_a_redirect_is_not_answered(
    proxy: FaultProxy, world: World, tmp_path: Path
) -> None:
    async with FaultProxy() as thief:
        thief.break_("", says(401, BASIC))
        proxy.break_(MANIFESTS, says(302, {"Location": f"http://{thief.name}/"}))
        options = RegistryOptions(
            insecure=frozenset({proxy.name, thief.name}),
            auth_files=passwords(tmp_path / "auth.json", proxy.name, thief.name),
        )
        with pytest.raises(ImageUnavailable, match="status 401"):
            await world.puller(options).pull(parse_reference(f"{proxy.name}/app:v1"), quiet)
        assert len(thief.requests) == 1
        assert "authorization" not in thief.requests[0].headers


@pytest.mark.parametrize("kind", ["redirect", "realm"])
async def test_a_public_registry_cannot_redirect_to_this_host(
    tls: Tls, world: World, tmp_path: Path, kind: str
) -> None:
    world.reach = lambda text: Reach.LOOPBACK if text == "127.0.0.2" else Reach.PUBLIC
    async with (
        FaultProxy(tls=tls.context()) as public,
        FaultProxy(host="127.0.0.2", tls=tls.context()) as inner,
    ):
        url = f"https://{inner.name}/secret"
        faults = {
            "redirect": says(302, {"Location": url}),
            "realm": says(401, {"WWW-Authenticate": f'Bearer realm="{url}"'}),
        }
        public.break_(MANIFESTS, faults[kind])
        options = RegistryOptions(
            ca_pem=tls.ca_pem, auth_files=passwords(tmp_path / "auth.json", public.name)
        )
        reference = parse_reference(f"{public.name}/app:v1")
        with pytest.raises(ImageUnavailable, match="an address of this machine"):
            await world.puller(options).pull(reference, quiet)
        assert inner.connections == 0
    assert world.is_clean()


async def test_an_unnamed_registry_is_used_only_at_public_addresses(
    tls: Tls, registry: Registry, world: World, digest: str
) -> None:
    async with FaultProxy(registry.port, tls=tls.context()) as inner:
        reference = parse_reference(f"{inner.name}/app:v1")
        options = RegistryOptions(ca_pem=tls.ca_pem, named=frozenset({"registry.example"}))
        with pytest.raises(ImageUnavailable, match="an address of this machine") as caught:
            await world.puller(options).pull(reference, quiet)
        assert inner.connections == 0
        assert "WAGGLE_ALLOWED_IMAGES" in caught.value.hint
        named = replace(options, named=frozenset({reference.registry}))
        assert await world.puller(named).pull(reference, quiet) == digest


async def test_a_registry_on_this_host_may_redirect_to_this_host(
    tls: Tls, registry: Registry, world: World, digest: str
) -> None:
    async with (
        FaultProxy(registry.port, tls=tls.context()) as own,
        FaultProxy(registry.port, host="127.0.0.2", tls=tls.context()) as storage,
    ):

        async def to_storage(exchange: Exchange) -> None:
            location = f"https://{storage.name}{exchange.request.path}"
            await exchange.send(302, {"Location": location}, b"")

        own.break_(LAYER, to_storage)
        reference = parse_reference(f"{own.name}/app:v1")
        options = RegistryOptions(ca_pem=tls.ca_pem)
        assert await world.puller(options).pull(reference, quiet) == digest
        assert len(storage.requests) == 3


@pytest.mark.parametrize(
    "status, headers, words",
    [
        (302, {"Location": "http://{other}/x"}, "redirects to .* not encrypted"),
        (401, {"WWW-Authenticate": 'Bearer realm="http://{other}/t"'}, "service .* not encrypted"),
        (401, {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}, "no web address"),
        (401, {"WWW-Authenticate": 'Bearer realm="https://a:b@{other}/"'}, "no web address"),
    ],
)
async def test_an_encrypted_registry_cannot_redirect_to_plain_text(
    tls: Tls, world: World, tmp_path: Path, status: int, headers: dict[str, str], words: str
) -> None:
    async with FaultProxy(tls=tls.context()) as own, FaultProxy() as other:
        filled = {name: value.replace("{other}", other.name) for name, value in headers.items()}
        own.break_(MANIFESTS, says(status, filled))
        options = RegistryOptions(
            ca_pem=tls.ca_pem, auth_files=passwords(tmp_path / "auth.json", own.name)
        )
        with pytest.raises(ImageUnavailable, match=words) as caught:
            await world.puller(options).pull(parse_reference(f"{own.name}/app:v1"), quiet)
        assert "secret-pw" not in str(caught.value)
        assert other.connections == 0


async def test_an_upload_goes_only_to_its_registry(
    proxy: FaultProxy, world: World, digest: str
) -> None:
    reference = parse_reference(f"{proxy.name}/app:v1")
    options = RegistryOptions(insecure=frozenset({proxy.name}))
    await world.puller(options).pull(reference, quiet)
    async with FaultProxy() as thief:
        for answer in (
            says(202, {"Location": f"http://{thief.name}/upload"}),
            says(307, {"Location": f"http://{thief.name}/upload"}),
            says(202),
        ):
            proxy.mend()
            proxy.break_("POST", answer)
            elsewhere = parse_reference(f"{proxy.name}/elsewhere:v1")
            with pytest.raises(ImageUnavailable, match="elsewhere"):
                await world.puller(options).push(str(reference), elsewhere, quiet)
        assert thief.connections == 0
