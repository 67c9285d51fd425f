# SPDX-License-Identifier: Apache-2.0
"""Layers are unpacked while they are transferred, and are not used before they are verified."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from pathlib import Path

import pytest
import zstandard
from tests.support.images import file, tar_bytes
from tests.support.waiting import until

from waggle.infra.oci.layers import UnpackedLayers
from waggle.infra.oci.registry.blobs import Incoming
from waggle.infra.oci.store.image import MEDIA_LAYER, Descriptor
from waggle.service.local.images.disk_maker import Unpacking

pytestmark = pytest.mark.anyio

TAR = tar_bytes([file(f"f{n}", bytes([n]) * 1_000_000) for n in range(6)])
DIGEST = f"sha256:{hashlib.sha256(TAR).hexdigest()}"
LAYER = Descriptor(MEDIA_LAYER, DIGEST, len(TAR))
HALF = len(TAR) // 2


@pytest.fixture
def layers(tmp_path: Path) -> UnpackedLayers:
    return UnpackedLayers(tmp_path / "layers")


def bytes_made(tmp_path: Path) -> int:
    """Count the unpacked bytes of incomplete layers."""
    return sum(path.stat().st_size for path in tmp_path.glob("layers/.tmp-*/layer/data"))


def is_clean(tmp_path: Path) -> bool:
    names = [path.name for path in tmp_path.glob("layers/*") if path.is_dir()]
    threads = [thread.name for thread in threading.enumerate()]
    return not names and not [name for name in threads if name.startswith("waggle-")]


async def test_a_layer_is_unpacked_while_it_arrives(layers: UnpackedLayers, tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "blob")
    async with Unpacking(layers) as unpacking:
        unpacking.start(LAYER, DIGEST, incoming)
        incoming.write([TAR[:HALF]])
        await until(lambda: bytes_made(tmp_path) > 1_000_000)
        incoming.write([TAR[HALF:]])
        await until(lambda: bytes_made(tmp_path) > 5_000_000)
        assert layers.find(DIGEST) is None  # the digest is not verified yet
        assert incoming.verify(DIGEST)
        incoming.close()
    found = layers.find(DIGEST)
    assert found is not None
    assert found.data.stat().st_size >= 6_000_000


async def test_an_abandoned_unpacking_ends_soon_and_leaves_nothing(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    with contextlib.suppress(KeyError):
        async with Unpacking(layers) as unpacking:
            with contextlib.closing(Incoming(tmp_path / "blob")) as incoming:
                unpacking.start(LAYER, DIGEST, incoming)
                incoming.write([TAR[:HALF]])
                await until(lambda: bytes_made(tmp_path) > 1_000_000)
                raise KeyError
    await until(lambda: is_clean(tmp_path))


async def test_a_layer_that_needs_much_memory_is_left_to_the_disk_maker(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    large = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=24)
    ).compressobj()
    data = large.compress(TAR) + large.flush()
    packed = f"sha256:{hashlib.sha256(data).hexdigest()}"
    async with Unpacking(layers) as unpacking:
        with contextlib.closing(Incoming(tmp_path / "blob")) as incoming:
            unpacking.start(Descriptor(f"{MEDIA_LAYER}+zstd", packed, len(data)), DIGEST, incoming)
            incoming.write([data])
            assert incoming.verify(packed)
    assert layers.find(DIGEST) is None
    await until(lambda: is_clean(tmp_path))


async def test_a_restarted_transfer_leaves_the_layer_to_be_unpacked_later(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    async with Unpacking(layers) as unpacking:
        with contextlib.closing(Incoming(tmp_path / "blob")) as incoming:
            unpacking.start(LAYER, DIGEST, incoming)
            incoming.write([TAR[:HALF]])
            await until(lambda: bytes_made(tmp_path) > 1_000_000)
            incoming.restart()
            incoming.write([TAR])
            assert incoming.verify(DIGEST)
    await until(lambda: is_clean(tmp_path))


async def test_a_layer_that_does_not_match_its_diff_id_is_not_kept(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    other = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    async with Unpacking(layers) as unpacking:
        with contextlib.closing(Incoming(tmp_path / "blob")) as incoming:
            unpacking.start(LAYER, other, incoming)
            incoming.write([TAR])
            assert incoming.verify(DIGEST)
    assert layers.find(other) is None
    await until(lambda: is_clean(tmp_path))


async def test_waiting_unpackings_do_not_use_up_the_threads_of_the_loop(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(20):
            unpacking = await stack.enter_async_context(Unpacking(layers))
            for part in "ab":
                incoming = Incoming(tmp_path / f"blob-{number}-{part}")
                stack.callback(incoming.close)
                unpacking.start(LAYER, DIGEST, incoming)
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(int, "7") == 7
