# SPDX-License-Identifier: Apache-2.0
"""Nearly valid layers, manifests and archives are read or refused quickly."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from tests.support.changed import (
    BLOCK,
    NUMBERS,
    attempts,
    changed,
    changed_json,
    mended,
)
from tests.support.images import (
    Layer,
    device,
    directory,
    file,
    hard_link,
    opaque,
    symlink,
    tar_bytes,
    whiteout,
)

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.layers.layers import read_entries, read_layer
from waggle.infra.oci.layers.merge import merge
from waggle.infra.oci.store.image import (
    MEDIA_CONFIG,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    Descriptor,
    candidates,
    load_json,
    parse_config,
    parse_descriptors,
    parse_manifest,
)
from waggle.infra.oci.transfer import docker_archive
from waggle.infra.oci.transfer.archive import Contents, Unpacked

MEMBERS: Layer = [
    directory("etc", 0o1777),
    file("etc/passwd", b"root:x:0:0" * 60, 0o4755, uid=3, gid=1 << 24),
    file("d" * 120 + "/caf\u00e9", b"x", mtime=1.5),
    symlink("bin", "usr/bin"),
    symlink("usr/bin", "../bin"),
    hard_link("again", "etc/passwd"),
    device("null", tarfile.CHRTYPE, 1, 3),
    whiteout("etc/gone"),
    opaque("var"),
    file("ping", b"", pax_headers={"SCHILY.xattr.security.capability": "\x01\x02", "mtime": "1.5"}),
    file("s01", b"ab", pax_headers={"GNU.sparse.map": "0,1,600,1", "GNU.sparse.size": "900"}),
    file(
        "s10", b"2\n0\n1\n600\n1\n".ljust(BLOCK, b"\0") + b"ab",
        pax_headers={
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
            "GNU.sparse.realsize": "900",
        },
    ),
]  # fmt: skip


def _gnu() -> bytes:
    """Return the members in GNU format, and an old sparse file whose map continues in a block."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in MEMBERS[:9]:
            archive.addfile(info, io.BytesIO(content))
    info = tarfile.TarInfo("old")
    info.type, info.size = b"S", 5
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for n in range(4):
        header[386 + 24 * n : 410 + 24 * n] = b"%011o\0%011o\0" % (n * 1000, 1)
    header[482:495] = b"\x01%011o\0" % 9000
    more = (b"%011o\0%011o\0" % (8000, 1)).ljust(BLOCK, b"\0")
    sparse = bytes(header) + more + b"abcde".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)
    return out.getvalue()[: _end(out.getvalue())] + mended(sparse)


def _end(data: bytes) -> int:
    """Return the offset at which the blocks of zeros begin."""
    return -(-len(data.rstrip(b"\0")) // BLOCK) * BLOCK


TARS = (tar_bytes(MEMBERS), _gnu())
DIGEST = f"sha256:{hashlib.sha256(b'').hexdigest()}"
LAYER = {"mediaType": MEDIA_LAYER, "digest": DIGEST, "size": 7, "annotations": {"a": "b"}}
PLATFORM = {"os": "linux", "architecture": "x86_64", "variant": "v2", "os.version": "1"}
FULL = {**LAYER, "mediaType": MEDIA_CONFIG, "platform": PLATFORM, "artifactType": "a/b"}
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": MEDIA_MANIFEST,
    "config": FULL,
    "layers": [LAYER, LAYER],
}
INDEX = {"schemaVersion": 2, "manifests": [FULL, LAYER]}
CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2026-01-01T00:00:00Z",
    "rootfs": {"type": "layers", "diff_ids": [DIGEST, DIGEST]},
    "config": {
        "Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": "/init", "User": "1000:1000",
        "WorkingDir": "/w", "Labels": {"a": "b"},
    },
}  # fmt: skip
DOCKER = [{"Config": "c.json", "RepoTags": ["a/b:c"], "Layers": ["l.tar", "x/../l.tar"]}]


def try_index(data: bytes) -> None:
    entries = parse_descriptors(load_json(data, "The index"), "manifests", "The index")
    candidates(entries, "linux/amd64")


@pytest.fixture
def scratch() -> Iterator[int]:
    descriptor = os.memfd_create("contents")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("count", NUMBERS)
def test_mutated_layers_are_read_or_refused(count: int, scratch: int) -> None:
    def make(chance: random.Random) -> bytes:
        data = changed(chance.choice(TARS), chance)
        return mended(data) if chance.random() < 0.8 else data

    def attempt(data: bytes) -> None:
        entries = list[Entry]()
        os.ftruncate(scratch, 0)
        read_entries(io.BytesIO(data), scratch, entries.append, DEFAULT_LIMITS)
        merge([entries], DEFAULT_LIMITS)

    attempts(count, make, attempt, (ImageCorrupt,))


@pytest.mark.parametrize("count", NUMBERS)
def test_mutated_packed_layers_are_read_or_refused(count: int, in_memory: Path) -> None:
    packed = (
        *(gzip.compress(TARS[0]), zstandard.compress(TARS[0]), lzma.compress(TARS[0])),
        bz2.compress(TARS[1]),
    )

    def attempt(data: bytes) -> None:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        described = Descriptor(MEDIA_LAYER, digest, len(data))
        out = in_memory / "data"
        out.unlink(missing_ok=True)
        take, advance = list[Entry]().append, list[int]().append
        read_layer(io.BytesIO(data), described, "", out, take, DEFAULT_LIMITS, advance=advance)

    attempts(count, lambda c: changed(c.choice(packed), c), attempt, (ImageCorrupt,))


@pytest.mark.parametrize("count", NUMBERS)
@pytest.mark.parametrize(
    "good, attempt",
    [
        pytest.param(MANIFEST, parse_manifest, id="manifest"),
        pytest.param(CONFIG, parse_config, id="configuration"),
        pytest.param(INDEX, try_index, id="index"),
    ],
)
def test_mutated_documents_are_read_or_refused(
    count: int, good: object, attempt: Callable[[bytes], object]
) -> None:
    def make(chance: random.Random) -> bytes:
        return changed_json(good, chance)

    def read(data: bytes) -> None:
        attempt(data)

    attempts(count, make, read, (ImageCorrupt,))


@pytest.mark.parametrize("count", NUMBERS)
def test_mutated_lists_of_docker_archives_are_read_or_refused(count: int, in_memory: Path) -> None:
    tar = in_memory / "l.tar"
    tar.write_bytes(TARS[0])
    hex_ = hashlib.sha256(TARS[0]).hexdigest()
    rootfs = {"diff_ids": [f"sha256:{hex_}"] * 2}
    config = in_memory / "c.json"
    config.write_bytes(json.dumps({**CONFIG, "rootfs": rootfs}).encode())
    listed, target = in_memory / "manifest.json", in_memory / "layout"

    def attempt(data: bytes) -> None:
        listed.write_bytes(data)
        tar.write_bytes(TARS[0])  # as_layout moves it
        layers = Unpacked(tar, hex_, len(TARS[0]))
        contents = Contents()
        contents.files = {
            (b"manifest.json",): Unpacked(listed, "", len(data)),
            (b"c.json",): Unpacked(config, "", config.stat().st_size),
            (b"l.tar",): layers,
            (b"x", b"..", b"l.tar"): layers,
        }
        docker_archive.as_layout(contents, target, "", DEFAULT_LIMITS, lambda _: None)

    refusals = (ImageCorrupt, ImageMissing)
    attempts(count, lambda chance: changed_json(DOCKER, chance), attempt, refusals)
