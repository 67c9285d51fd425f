# SPDX-License-Identifier: Apache-2.0
"""Pulling from and pushing to a real registry, with skopeo as the other client."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.infra.oci.registry.world import PLATFORM, World, quiet
from tests.support.fault_proxy import FaultProxy, flip, says
from tests.support.images import ARCHITECTURE, Layer, directory, file, write_layout
from tests.support.registry import Registry, auth_file, make_tls, run_registry, skopeo
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.errors import (
    DiskFull,
    ImageMissing,
    ImageUnavailable,
    InvalidArgument,
    RegistryBusy,
    TooLarge,
)
from waggle.domain.reference import parse_reference
from waggle.infra.oci.registry.options import RegistryOptions, Transfer
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import MEDIA_INDEX, MEDIA_MANIFEST
from waggle.infra.oci.store.layout import Layout

pytestmark = pytest.mark.anyio

LAYERS: Sequence[Layer] = [
    [directory("etc"), file("etc/a", b"a" * 300_000)],
    [file("etc/b", bytes(range(256)) * 2000)],
    [file("c", b"c")],
]


def plain(registry: Registry) -> RegistryOptions:
    return RegistryOptions(insecure=frozenset({registry.name}))


def made(path: Path, name: str = "v1") -> str:
    return write_layout(path, LAYERS, name=name)


def given(registry: Registry, tmp_path: Path, repository: str, *more: str) -> str:
    """Push an image with skopeo; return its digest."""
    digest = made(tmp_path / "made")
    target = f"docker://{registry.name}/{repository}:v1"
    skopeo("copy", "--dest-tls-verify=false", *more, f"oci:{tmp_path}/made:v1", target)
    return digest


async def test_pulls_what_skopeo_pushed(registry: Registry, world: World, tmp_path: Path) -> None:
    digest = given(registry, tmp_path, "a/b")
    reference = parse_reference(f"{registry.name}/a/b:v1")
    assert await world.puller(plain(registry)).pull(reference, world.reports.append) == digest
    assert world.names() == [str(reference)]
    found = ImageStore(world.layout.path, platform=PLATFORM).resolve(str(reference))
    assert (found.digest, len(found.layers)) == (digest, 3)
    for layer in found.layers:
        data = world.layout.blob_path(layer).read_bytes()
        assert hashlib.sha256(data).hexdigest() == layer.hex
    last = world.reports[-1]
    assert (last.done_bytes, last.done_layers) == (last.total_bytes, last.layers) == (found.size, 3)
    assert not list(world.layout.path.glob(".tmp-*"))


async def test_a_second_pull_fetches_no_layer_again(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    given(registry, tmp_path, "again")
    async with FaultProxy(registry.port) as proxy:
        options = RegistryOptions(insecure=frozenset({proxy.name}))
        reference = parse_reference(f"{proxy.name}/again:v1")
        first = await world.puller(options).pull(reference, world.reports.append)
        assert len(proxy.seen("GET .*/blobs/")) == 4
        proxy.mend()
        assert await world.puller(options).pull(reference, world.reports.append) == first
        assert len(proxy.seen("GET .*/blobs/")) == 1  # the configuration
        assert world.reports[-1].done_layers == 3


async def test_an_image_pulled_by_digest_is_named_by_it(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "by-digest")
    reference = parse_reference(f"{registry.name}/by-digest@{digest}")
    assert await world.puller(plain(registry)).pull(reference, world.reports.append) == digest
    assert world.names() == [str(reference)]


async def test_docker_manifests_are_kept_as_they_are(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    given(registry, tmp_path, "docker", "--format", "v2s2")
    reference = parse_reference(f"{registry.name}/docker:v1")
    digest = await world.puller(plain(registry)).pull(reference, world.reports.append)
    stored = world.layout.names()[str(reference)]
    assert stored.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    image = ImageStore(world.layout.path, platform=PLATFORM).resolve(str(reference))
    assert (image.digest, len(image.layers)) == (digest, 3)


async def test_resolve_gives_the_digest_that_a_pull_would_fetch(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "resolved")
    reference = parse_reference(f"{registry.name}/resolved:v1")
    assert (await world.puller(plain(registry)).resolve(reference)).digest == digest
    assert world.is_clean()


def talk(registry: Registry, method: str, path: str, body: bytes, kind: str) -> bytes:
    connection = http.client.HTTPConnection(registry.name, timeout=20)
    try:
        headers = {"Content-Type": kind, "Accept": kind}
        connection.request(method, f"/v2/{path}", body or None, headers)
        response = connection.getresponse()
        assert response.status in {200, 201}
        return response.read()
    finally:
        connection.close()


def put_index(registry: Registry, repository: str, entries: list[dict[str, object]]) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries})
    talk(registry, "PUT", f"{repository}/manifests/all", body.encode(), MEDIA_INDEX)


def entry(registry: Registry, repository: str, digest: str, architecture: str) -> dict[str, object]:
    manifest = talk(registry, "GET", f"{repository}/manifests/{digest}", b"", MEDIA_MANIFEST)
    platform = {"os": "linux", "architecture": architecture}
    return {
        "mediaType": MEDIA_MANIFEST,
        "digest": digest,
        "size": len(manifest),
        "platform": platform,
    }


async def test_the_variant_for_this_host_is_pulled_from_an_index(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "index")
    other = write_layout(tmp_path / "other", [LAYERS[2]], name="v1", platform=("linux", "riscv64"))
    target = f"docker://{registry.name}/index:other"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/other:v1", target)
    both = [
        entry(registry, "index", other, "riscv64"),
        entry(registry, "index", digest, ARCHITECTURE),
    ]
    put_index(registry, "index", both)
    reference = parse_reference(f"{registry.name}/index:all")
    puller = world.puller(plain(registry))
    assert await puller.pull(reference, world.reports.append) == digest
    assert (await puller.resolve(reference)).digest == digest

    put_index(registry, "index", both[:1])
    with pytest.raises(ImageMissing, match="no variant for"):
        await puller.pull(reference, world.reports.append)


async def test_an_image_for_another_platform_is_refused_before_its_layers(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    write_layout(tmp_path / "other", LAYERS, name="v1", platform=("linux", "riscv64"))
    skopeo(
        "copy",
        "--dest-tls-verify=false",
        f"oci:{tmp_path}/other:v1",
        f"docker://{registry.name}/foreign:v1",
    )
    with pytest.raises(ImageMissing, match="riscv64"):
        await world.puller(plain(registry)).pull(
            parse_reference(f"{registry.name}/foreign:v1"), world.reports.append
        )
    assert world.is_clean()


async def test_an_absent_image_is_reported_as_missing(registry: Registry, world: World) -> None:
    with pytest.raises(ImageMissing, match="has no image nothing v9"):
        await world.puller(plain(registry)).pull(
            parse_reference(f"{registry.name}/nothing:v9"), world.reports.append
        )
    assert world.is_clean()
    assert world.pauses == []


async def test_an_image_over_the_limit_is_not_fetched(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    given(registry, tmp_path, "large")
    options = RegistryOptions(insecure=frozenset({registry.name}), max_bytes=100)
    with pytest.raises(TooLarge):
        await world.puller(options).pull(
            parse_reference(f"{registry.name}/large:v1"), world.reports.append
        )
    assert world.is_clean()


async def test_a_name_without_registry_cannot_be_pulled(world: World) -> None:
    with pytest.raises(InvalidArgument, match="names no registry"):
        await world.puller(RegistryOptions()).pull(parse_reference("python:3.12"), quiet)


async def test_an_unlisted_registry_is_not_used_without_tls(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    given(registry, tmp_path, "unlisted")
    with pytest.raises(ImageUnavailable) as caught:
        await world.puller(RegistryOptions()).pull(
            parse_reference(f"{registry.name}/unlisted:v1"), quiet
        )
    assert "WAGGLE_INSECURE_REGISTRIES" in caught.value.hint
    assert world.is_clean()


async def test_skopeo_reads_a_pushed_image(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = made(world.layout.path, "mine")
    reference = parse_reference(f"{registry.name}/pushed/here:v2")
    puller = world.puller(plain(registry))
    assert await puller.push("mine", reference, world.reports.append) == digest
    last = world.reports[-1]
    assert (last.done_bytes, last.done_layers) == (last.total_bytes, last.layers)
    source = f"docker://{registry.name}/pushed/here:v2"
    skopeo("copy", "--src-tls-verify=false", source, f"oci:{tmp_path}/back:v2")
    assert ImageStore(tmp_path / "back", platform=PLATFORM).resolve("v2").digest == digest


async def test_a_second_push_sends_no_blob_again(registry: Registry, world: World) -> None:
    made(world.layout.path, "mine")
    async with FaultProxy(registry.port) as proxy:
        options = RegistryOptions(insecure=frozenset({proxy.name}))
        reference = parse_reference(f"{proxy.name}/twice:v1")
        await world.puller(options).push("mine", reference, world.reports.append)
        assert len(proxy.seen("PUT .*/blobs/")) == 4
        proxy.mend()
        await world.puller(options).push("mine", reference, world.reports.append)
        assert len(proxy.seen("PUT .*/manifests/")) == 1
        assert not proxy.seen("(POST|PUT) .*/blobs/")
        proxy.mend()
        elsewhere = parse_reference(f"{proxy.name}/mounted:v1")
        await world.puller(options).push(
            "mine", elsewhere, world.reports.append, mount_from="twice"
        )
        assert not proxy.seen("PUT .*/blobs/")


async def test_pushing_under_a_wrong_digest_is_refused(registry: Registry, world: World) -> None:
    made(world.layout.path, "mine")
    other = parse_reference(f"{registry.name}/x@sha256:{'0' * 64}")
    with pytest.raises(InvalidArgument):
        await world.puller(plain(registry)).push("mine", other, quiet)
    with pytest.raises(ImageMissing):
        await world.puller(plain(registry)).push("absent", other, quiet)


async def test_a_private_certificate_authority_and_a_password_work(
    world: World, tmp_path: Path
) -> None:
    tls = make_tls(tmp_path / "tls")
    made(world.layout.path, "mine")
    with run_registry(tmp_path / "registry", tls=tls, basic=True) as registry:
        reference = parse_reference(f"{registry.name}/private/app:v1")
        good = auth_file(tmp_path / "auth.json", registry.name)
        with pytest.raises(ImageUnavailable, match="not trusted"):
            await world.puller(RegistryOptions()).push("mine", reference, quiet)
        with pytest.raises(ImageUnavailable, match="wants a user name"):
            await world.puller(RegistryOptions(ca_pem=tls.ca_pem)).push("mine", reference, quiet)
        wrong = auth_file(tmp_path / "wrong.json", registry.name, password="vinegar")
        options = RegistryOptions(ca_pem=tls.ca_pem, auth_files=(wrong,))
        with pytest.raises(ImageUnavailable, match="refuses the credentials") as caught:
            await world.puller(options).push("mine", reference, quiet)
        assert "vinegar" not in str(caught.value)
        options = RegistryOptions(ca_pem=tls.ca_pem, auth_files=(tmp_path / "none.json", good))
        digest = await world.puller(options).push("mine", reference, quiet)
        other = World(Layout(tmp_path / "other"))
        assert await other.puller(options).pull(reference, quiet) == digest
    assert world.pauses == []


async def test_an_unreachable_registry_is_retried_and_then_reported(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        name = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RegistryBusy, match="cannot be reached"):
            await world.puller(RegistryOptions(insecure=frozenset({name}))).pull(
                parse_reference(f"{name}/a:v1"), quiet
            )
    assert world.pauses == [0.5, 1.0, 2.0, 4.0]
    assert world.is_clean()


async def test_mirrors_are_tried_first_and_may_fail(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "kept/lib/app")
    async with FaultProxy(registry.port) as mirror, FaultProxy() as broken:
        options = RegistryOptions(
            insecure=frozenset({mirror.name, broken.name}),
            mirrors={"registry.example": (broken.name, f"{mirror.name}/kept")},
        )
        reference = parse_reference("registry.example/lib/app:v1")
        assert await world.puller(options).pull(reference, quiet) == digest
        assert broken.seen("/v2/lib/app/manifests/v1")
    assert world.names() == ["registry.example/lib/app:v1"]


async def test_layers_that_a_mirror_lacks_come_from_the_registry(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "lib/app")
    async with FaultProxy(registry.port) as mirror, FaultProxy(registry.port) as own:
        mirror.break_("/blobs/", flip, times=3)
        mirror.break_("/blobs/", says(404), times=3)
        options = RegistryOptions(
            insecure=frozenset({mirror.name, own.name}), mirrors={own.name: (mirror.name,)}
        )
        reference = parse_reference(f"{own.name}/lib/app:v1")
        assert await world.puller(options).pull(reference, world.reports.append) == digest
    assert world.reports[-1].done_bytes == world.reports[-1].total_bytes


async def test_blobs_that_vanish_during_the_pull_are_fetched_again(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "vanishing")
    reference = parse_reference(f"{registry.name}/vanishing:v1")
    puller = world.puller(plain(registry))
    await puller.pull(reference, quiet)
    layer = ImageStore(world.layout.path, platform=PLATFORM).resolve(str(reference)).layers[0]

    def remove(report: Transfer) -> None:
        if report.done_layers == 3:
            world.layout.blob_path(layer).unlink(missing_ok=True)

    assert await puller.pull(reference, remove) == digest
    assert world.layout.blob_path(layer).stat().st_size == layer.size


async def test_concurrent_pulls_do_not_disturb_each_other(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    digest = given(registry, tmp_path, "shared")
    reference = parse_reference(f"{registry.name}/shared:v1")
    pullers = [world.puller(plain(registry)) for _ in range(4)]
    assert await asyncio.gather(*(p.pull(reference, quiet) for p in pullers)) == [digest] * 4
    assert not list(world.layout.path.glob(".tmp-*"))


async def test_a_store_that_cannot_be_written_is_reported(
    registry: Registry, world: World, tmp_path: Path
) -> None:
    given(registry, tmp_path, "unwritable")
    world.layout.path.write_text("no directory")
    with pytest.raises(ImageUnavailable, match="image store cannot be read or written"):
        await world.puller(plain(registry)).pull(
            parse_reference(f"{registry.name}/unwritable:v1"), quiet
        )


@needs_root
async def test_a_full_disk_is_reported_and_a_later_pull_succeeds(
    registry: Registry, digest: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        world = World(Layout(disk.path / "store"))
        puller = world.puller(plain(registry))
        reference = parse_reference(f"{registry.name}/app:v1")
        disk.fill(leave=500_000)
        with pytest.raises(DiskFull, match="no room in the image cache"):
            await puller.pull(reference, quiet)
        assert world.is_clean()
        assert world.pauses == [], "it is not tried again"
        disk.free()
        assert await puller.pull(reference, quiet) == digest
        assert world.names() == [str(reference)]
