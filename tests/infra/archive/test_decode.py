# SPDX-License-Identifier: Apache-2.0
"""Decompression needs bounded memory for any input: one window and one piece of the output."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import anyio.to_thread
import pytest
import zstandard
from tests.support.archives import packed_zeros
from tests.support.strain import strained

from waggle.infra.archive.decode import DAMAGE, CountedFile, decoder

pytestmark = pytest.mark.anyio
MIB = 1 << 20
WINDOW = 8 * MIB
UNPACKED = 128 * MIB


def xz(size: int, dictionary: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
    return lzma.compress(bytes(size), filters=filters)


def of_one_segment(size: int) -> bytes:
    """Return a frame of one segment, whose window is as large as its content."""
    wanted = zstandard.ZstdCompressionParameters(window_log=size.bit_length() - 1)
    data = zstandard.ZstdCompressor(compression_params=wanted).compress(bytes(size))
    assert zstandard.get_frame_parameters(data).window_size == size
    return data


def unpacked(data: bytes, window: int = WINDOW) -> int:
    source, size = decoder(CountedFile(io.BytesIO(data), lambda _count: None), window), 0
    while piece := source.read(MIB):
        size += len(piece)
    return size


@pytest.mark.parametrize(
    "pack",
    [
        lambda: packed_zeros(UNPACKED, WINDOW),
        lambda: xz(UNPACKED, WINDOW),
        lambda: gzip.compress(bytes(UNPACKED), 1),
        lambda: bz2.compress(bytes(MIB)) * (UNPACKED // MIB),
    ],
    ids=["zstd", "xz", "gzip", "bzip2"],
)
async def test_a_bomb_needs_memory_for_its_window_and_one_piece(pack: Callable[[], bytes]) -> None:
    data = pack()
    async with strained() as strain:
        assert await anyio.to_thread.run_sync(unpacked, data) == UNPACKED
    assert strain.grown < WINDOW + 24 * MIB


@pytest.mark.parametrize(
    "made",
    [  # not at import, which every worker does
        lambda: packed_zeros(64 * MIB, 2 * WINDOW),
        lambda: packed_zeros(64 * MIB, 1 << 41),
        lambda: packed_zeros(MIB, WINDOW) + packed_zeros(64 * MIB, 2 * WINDOW),
        lambda: of_one_segment(2 * WINDOW),
        lambda: xz(64 * MIB, 2 * WINDOW),
    ],
    ids=["twice", "the largest", "in a later frame", "of one segment", "xz"],
)
async def test_a_larger_window_is_refused_before_it_is_allocated(
    made: Callable[[], bytes],
) -> None:
    data = made()
    async with strained() as strain:
        with pytest.raises(DAMAGE):
            await anyio.to_thread.run_sync(unpacked, data)
    assert strain.grown < 24 * MIB


def test_the_window_of_xz_at_its_highest_level_fits_in_64_mib() -> None:
    assert unpacked(lzma.compress(b"text", preset=9), 64 * MIB) == 4
