# SPDX-License-Identifier: Apache-2.0
"""A layer's blob: every compression, and every false claim that it can make."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
from pathlib import Path

import pytest
import zstandard
from tests.support.images import compressed, file, symlink, tar_bytes

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DEFAULT_LIMITS, Limits
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.layers.layers import ALIGN, LayerData, read_layer
from waggle.infra.oci.store.image import MEDIA_LAYER, Descriptor

TAR = tar_bytes([file("a", b"first"), file("empty"), file("b", b"x" * 9000)])


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def describe(blob: bytes, media_type: str = f"{MEDIA_LAYER}+gzip") -> Descriptor:
    return Descriptor(media_type, _digest(blob), len(blob))


def read(
    where: Path,
    blob: bytes,
    descriptor: Descriptor | None = None,
    diff_id: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> LayerData:
    descriptor = descriptor or describe(blob)
    data, entries = where / "data", list[Entry]()
    stream = io.BytesIO(blob)
    size = read_layer(stream, descriptor, diff_id, data, entries.append, limits, advance=ignore)
    return LayerData(entries, data, size)


def ignore(count: int) -> None:
    """Ignore progress."""


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_reads_each_compression_by_its_first_bytes(tmp_path: Path, compression: str) -> None:
    layer = read(tmp_path, compressed(TAR, compression), diff_id=_digest(TAR))
    a, empty, b = layer.entries
    assert (a.size, empty.size, b.size) == (5, 0, 9000)
    assert a.offset % ALIGN == b.offset % ALIGN == 0
    data = layer.data.read_bytes()
    assert data[a.offset : a.offset + 5] == b"first"
    assert data[b.offset : b.offset + 9000] == b"x" * 9000
    assert layer.unpacked_bytes == len(TAR)


def test_reads_several_gzip_members_and_zstd_frames(tmp_path: Path) -> None:
    cut = 700
    members = gzip.compress(TAR[:cut]) + gzip.compress(TAR[cut:]) + bytes(512)
    read(tmp_path, members, diff_id=_digest(TAR))
    (tmp_path / "data").unlink()
    pack = zstandard.ZstdCompressor().compress
    read(tmp_path, pack(TAR[:cut]) + pack(TAR[cut:]), diff_id=_digest(TAR))


def test_progress_counts_every_stored_byte(tmp_path: Path) -> None:
    blob = compressed(TAR, "gzip")
    seen: list[int] = []
    data, stream = tmp_path / "data", io.BytesIO(blob)
    take = list[Entry]().append
    read_layer(stream, describe(blob), "", data, take, DEFAULT_LIMITS, advance=seen.append)
    assert sum(seen) == len(blob)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_flipped_byte_is_found(tmp_path: Path, compression: str) -> None:
    good = compressed(tar_bytes([file("r", os.urandom(50_000))]), compression)
    descriptor = describe(good)
    for at in (0, 1, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 0x40
        with pytest.raises(ImageCorrupt):
            read(tmp_path, bytes(bad), descriptor)
        (tmp_path / "data").unlink(missing_ok=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_a_truncated_blob_is_found(tmp_path: Path, compression: str) -> None:
    blob = compressed(tar_bytes([file("r", os.urandom(50_000))]), compression)[:-20_000]
    with pytest.raises(ImageCorrupt, match=r"damaged|in the middle"):
        read(tmp_path, blob)


def test_bytes_after_the_archive_count_for_the_digest(tmp_path: Path) -> None:
    blob = compressed(TAR, "") + b"more"
    with pytest.raises(ImageCorrupt, match=r"digest"):
        read(tmp_path, blob, dataclasses.replace(describe(blob), digest=_digest(TAR)))


def test_a_wrong_diff_id_is_found(tmp_path: Path) -> None:
    with pytest.raises(ImageCorrupt, match=r"diff id"):
        read(tmp_path, compressed(TAR, "gzip"), diff_id=_digest(b"other"))


def test_a_blob_of_another_media_type_is_refused(tmp_path: Path) -> None:
    blob = compressed(TAR, "gzip")
    with pytest.raises(ImageCorrupt, match=r"not a file system layer"):
        read(tmp_path, blob, describe(blob, "application/vnd.in-toto+json"))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_decompression_bomb_is_stopped(tmp_path: Path, compression: str) -> None:
    blob = compressed(tar_bytes([file("zeros", bytes(20 << 20))]), compression)
    limits = Limits(ratio=20, ratio_from=1 << 20)
    with pytest.raises(ImageCorrupt, match=r"over 20 times"):
        read(tmp_path, blob, limits=limits)
    assert (tmp_path / "data").stat().st_size < 4 << 20


def test_the_sum_of_sizes_is_limited_even_if_files_are_holes(tmp_path: Path) -> None:
    headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 33)}
    layer = [file(f"f{n}", pax_headers=headers) for n in range(5)]
    with pytest.raises(ImageCorrupt, match=r"unpacks to more"):
        read(tmp_path, compressed(tar_bytes(layer), "gzip"))


def test_the_sum_of_names_links_and_attributes_is_limited(tmp_path: Path) -> None:
    layers = (
        [file(f"{n}/{'x' * 200}") for n in range(10)],
        [symlink(f"{n}", "x" * 200) for n in range(10)],
        [file(f"{n}", pax_headers={"SCHILY.xattr.user.k": "v" * 200}) for n in range(10)],
    )
    for layer in layers:
        blob = compressed(tar_bytes(layer), "gzip")
        with pytest.raises(ImageCorrupt, match=r"take more than 1500 bytes"):
            read(tmp_path, blob, limits=Limits(metadata_bytes=1500))
        (tmp_path / "data").unlink()
        assert len(read(tmp_path, blob, limits=Limits(metadata_bytes=3000)).entries) == 10
        (tmp_path / "data").unlink()


def test_equal_components_of_names_are_held_once(tmp_path: Path) -> None:
    blob = compressed(tar_bytes([file("usr/lib/a"), file("usr/lib/b")]), "gzip")
    a, b = read(tmp_path, blob).entries
    assert a.path[1] is b.path[1]


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageCorrupt, match=r"more than 2 entries"):
        read(tmp_path, compressed(TAR, "gzip"), limits=Limits(entries=2))


def test_too_many_attributes_are_refused(tmp_path: Path) -> None:
    headers = {f"SCHILY.xattr.user.{n}": "v" * 500 for n in range(9)}
    with pytest.raises(ImageCorrupt, match=r"attributes"):
        read(tmp_path, compressed(tar_bytes([file("f", pax_headers=headers)]), "gzip"))
