# SPDX-License-Identifier: Apache-2.0
"""When a registry is contacted, tested against a real one with the test's clock."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.fault_proxy import Exchange, FaultProxy, pass_on
from tests.support.images import Layer, directory, file, write_layout
from tests.support.registry import Registry, run_registry, skopeo
from tests.support.waiting import cancelled, until

from waggle.domain.errors import ImageCorrupt, ImageMissing, ImageUnavailable
from waggle.domain.host import no_progress
from waggle.domain.image import PullRule
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.reference import parse_reference
from waggle.infra.oci.registry.options import RegistryOptions, Transfer
from waggle.service.local.images.images import ImageService
from waggle.service.local.images.pulls import PullPlaces, PullPolicy, Pulls, describe

pytestmark = pytest.mark.anyio
BASE: Layer = [directory("etc"), file("etc/base", b"b" * 100_000)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def push(registry: Registry, tmp_path: Path, name: str, content: bytes) -> str:
    """Push an image of two layers, the lower always the same, and return its digest."""
    path = tmp_path / f"made-{content.decode()}"
    digest = write_layout(path, [BASE, [file("etc/own", content)]], name="v1")
    target = f"docker://{registry.name}/{name}"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{path}:v1", target)
    return digest


@dataclass
class World:
    registry: Registry
    tmp: Path
    now: float = 1_000_000.0
    name: str = ""

    def service(
        self,
        rule: PullRule | timedelta = PullRule.MISSING,
        places: PullPlaces | None = None,
        **more: str,
    ) -> ImageService:
        options = RegistryOptions(insecure=frozenset({self.name or self.registry.name}), attempts=1)
        service = ImageService(
            store=self.tmp / "store",
            disks=self.tmp / "disks",
            layers=self.tmp / "layers",
            runtimes={RuntimeName.SHELL: "shell"},
            pulling=PullPolicy(options, rule, **more),
            places=places,
        )
        service.pulls = Pulls(
            service.store, service.layers, PullPolicy(options, rule, **more), lambda: self.now
        )
        return service


@pytest.fixture
def world(registry: Registry, tmp_path: Path) -> World:
    return World(registry, tmp_path)


async def test_a_missing_image_is_pulled_and_gets_a_disk(world: World) -> None:
    digest = push(world.registry, world.tmp, "a:v1", b"one")
    image = await world.service().boot_image(f"{world.registry.name}/a:v1", no_progress)
    assert image.digest == digest
    assert image.disk.stat().st_size > 0
    assert world.service().store.resolve(f"{world.registry.name}/a:v1").digest == digest


async def test_an_image_that_is_present_is_not_pulled_again(world: World) -> None:
    name = f"{world.registry.name}/b:v1"
    push(world.registry, world.tmp, "b:v1", b"one")
    first = await world.service().boot_image(name, no_progress)
    push(world.registry, world.tmp, "b:v1", b"two")
    assert (await world.service().boot_image(name, no_progress)).digest == first.digest
    second = await world.service(PullRule.ALWAYS).boot_image(name, no_progress)
    assert second.digest != first.digest


async def test_an_old_tag_is_checked_again(world: World) -> None:
    name = f"{world.registry.name}/c:v1"
    service = world.service(timedelta(hours=1))
    push(world.registry, world.tmp, "c:v1", b"one")
    first = await service.boot_image(name, no_progress)
    changed = push(world.registry, world.tmp, "c:v1", b"two")
    world.now += 3599
    assert (await service.boot_image(name, no_progress)).digest == first.digest
    world.now += 2
    assert (await service.boot_image(name, no_progress)).digest == changed


async def test_an_old_image_is_used_while_its_registry_is_down(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with run_registry(tmp_path_factory.mktemp("gone")) as registry:
        world = World(registry, tmp_path)
        name = f"{registry.name}/d:v1"
        digest = push(registry, tmp_path, "d:v1", b"one")
        await world.service(timedelta(hours=1)).boot_image(name, no_progress)
    world.now += 7200
    old = await world.service(timedelta(hours=1)).boot_image(name, no_progress)
    assert old.digest == digest
    with pytest.raises(ImageUnavailable):
        await world.service(PullRule.ALWAYS).boot_image(name, no_progress)


async def test_with_the_rule_never_no_registry_is_contacted(world: World) -> None:
    push(world.registry, world.tmp, "e:v1", b"one")
    service = world.service(PullRule.NEVER)
    with pytest.raises(ImageMissing):
        await service.boot_image(f"{world.registry.name}/e:v1", no_progress)
    assert not service.pulls.may_bring(f"{world.registry.name}/e:v1")


async def test_a_short_name_is_pulled_from_the_default_registry_only(world: World) -> None:
    push(world.registry, world.tmp, "team/f:v1", b"one")
    with pytest.raises(ImageMissing):
        await world.service().boot_image("f:v1", no_progress)
    service = world.service(default_registry=f"{world.registry.name}/team")
    image = await service.boot_image("f:v1", no_progress)
    assert image.reference == f"{world.registry.name}/team/f:v1"


async def test_concurrent_creates_pull_once(world: World) -> None:
    push(world.registry, world.tmp, "g:v1", b"one")
    async with FaultProxy(world.registry.port) as proxy:
        service = World(world.registry, world.tmp, name=proxy.name).service()
        name = f"{proxy.name}/g:v1"
        images = await asyncio.gather(*(service.boot_image(name, no_progress) for _ in range(5)))
        assert len({image.digest for image in images}) == 1
        assert len(proxy.seen("GET .*/blobs/")) == 3  # two layers and the configuration


async def test_layers_shared_by_images_are_unpacked_once(world: World) -> None:
    service = world.service()
    for name, content in (("h", b"one"), ("i", b"two")):
        push(world.registry, world.tmp, f"{name}:v1", content)
        await service.boot_image(f"{world.registry.name}/{name}:v1", no_progress)
    assert len([*(world.tmp / "layers").glob("*.v2")]) == 3


async def test_a_damaged_blob_is_reported_and_fetched_again_by_the_next_pull(world: World) -> None:
    service = world.service()
    names = [f"{world.registry.name}/{image}:v1" for image in ("j", "k")]
    for name, content in zip(names, (b"one", b"two"), strict=True):
        push(world.registry, world.tmp, name.partition("/")[2], content)
        await service.pulls.pull(parse_reference(name), lambda _: None)
    shutil.rmtree(world.tmp / "layers")
    shared = service.store.layout.blob_path(service.store.resolve(names[0]).layers[0])
    shared.write_bytes(shared.read_bytes()[:-8] + bytes(8))  # the size is right
    with pytest.raises(ImageCorrupt, match=r"damaged|does not have that digest") as caught:
        await service.boot_image(names[0], no_progress)
    assert names[0] in caught.value.message
    assert f"waggle image rm {names[0]}" in caught.value.hint
    assert not shared.exists()
    await service.pulls.pull(parse_reference(names[0]), lambda _: None)
    for name in names:
        await service.boot_image(name, no_progress)


@pytest.mark.parametrize(
    "transfer, share, text",
    [
        (Transfer(text="Pulling a"), 0.0, "Pulling a: 0 of 0 MB, 0 of 0 layers"),
        (Transfer(5_000_000, 10_000_000, 1, 2, "x"), 0.5, "x: 5 of 10 MB, 1 of 2 layers"),
        (Transfer(20, 10, 1, 2, "x"), 1.0, "x: 0 of 0 MB, 1 of 2 layers"),
    ],
)
def test_progress_is_described_in_words(transfer: Transfer, share: float, text: str) -> None:
    assert describe(transfer) == (share, text)


async def test_an_abandoned_pull_continues_and_other_callers_keep_it(world: World) -> None:
    push(world.registry, world.tmp, "k:v1", b"one")
    async with FaultProxy(world.registry.port) as proxy:
        hold = asyncio.Event()

        async def slowly(exchange: Exchange) -> None:
            await hold.wait()
            await pass_on(exchange)

        proxy.break_(r"/blobs/", slowly)
        service = World(world.registry, world.tmp, name=proxy.name).service()
        name = f"{proxy.name}/k:v1"
        first, second = (
            asyncio.ensure_future(service.boot_image(name, no_progress)) for _ in range(2)
        )
        await until(lambda: bool(proxy.seen("GET .*/blobs/")))
        first.cancel()
        hold.set()
        assert (await second).disk.exists()
        assert len(proxy.seen("GET .*/blobs/")) == 3
        hold.clear()
        push(world.registry, world.tmp, "l:v1", b"two")
        before = len(proxy.seen("GET .*/blobs/"))
        name = f"{proxy.name}/l:v1"
        alone = asyncio.ensure_future(service.boot_image(name, no_progress))
        await until(lambda: len(proxy.seen("GET .*/blobs/")) > before)
        await cancelled(alone)
        hold.set()
        assert (await service.boot_image(name, no_progress)).disk.exists()
        assert len(proxy.seen("GET .*/blobs/")) == before + 2  # the lower layer was here already


async def test_a_waiting_pull_is_reported_and_gets_the_place_of_an_abandoned_one(
    world: World,
) -> None:
    for name, content in (("m", b"one"), ("n", b"two")):
        push(world.registry, world.tmp, f"{name}:v1", content)
    async with FaultProxy(world.registry.port) as proxy:
        hold, reports = asyncio.Event(), list[str]()

        async def slowly(exchange: Exchange) -> None:
            await hold.wait()
            await pass_on(exchange)

        async def hear(_share: float, text: str) -> None:
            reports.append(text)

        proxy.break_(r"/m/blobs/", slowly)
        places = PullPlaces(1, lambda: True)
        service = World(world.registry, world.tmp, name=proxy.name).service(places=places)
        first, second = f"{proxy.name}/m:v1", f"{proxy.name}/n:v1"
        given_up = asyncio.ensure_future(service.boot_image(first, no_progress, "a"))
        await until(lambda: bool(proxy.seen("GET .*/m/blobs/")))
        waits = asyncio.ensure_future(service.boot_image(second, hear, "b"))
        await until(lambda: reports == [f"Waiting to pull {second}, after 0 others"])
        assert not proxy.seen("GET .*/n/")
        given_up.cancel()
        assert (await waits).disk.exists()
        hold.set()
        assert (await service.boot_image(first, no_progress, "a")).disk.exists()


async def test_clients_reach_no_private_registry_that_only_a_wildcard_allows(world: World) -> None:
    name = f"{world.registry.name}/star:v1"
    push(world.registry, world.tmp, "star:v1", b"one")
    service = world.service()
    options = RegistryOptions(named=frozenset(), attempts=1)
    pulls = Pulls(service.store, service.layers, PullPolicy(options), lambda: world.now)
    with pytest.raises(ImageUnavailable, match="an address of this machine"):
        await pulls.bring(name, lambda _: None)
    with pytest.raises(ImageUnavailable, match="does not speak TLS"):  # the operator's own pull
        await pulls.pull(parse_reference(name), lambda _: None)
