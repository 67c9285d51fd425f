# SPDX-License-Identifier: Apache-2.0
"""Loading images from files: damage, truncation and decompression bombs are refused."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.infra.oci.archives import (
    blobs,
    config_of,
    ignore,
    layout_members,
    leftovers,
    listing,
    manifest,
    write_archive,
)
from tests.infra.oci.loading import NAME, boots, docker_members, refused
from tests.support.images import (
    compressed,
    file,
    tar_bytes,
    write_layout,
)
from tests.support.in_memory import IN_MEMORY
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.errors import DiskFull, ImageCorrupt, ImageMissing, InvalidArgument
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load


def _blob(layout: Path, which: str) -> Path:
    image = ImageStore(layout).resolve(NAME)
    document = json.loads((layout / "blobs/sha256" / image.digest[7:]).read_text())
    digest = {
        "manifest": image.digest,
        "config": document["config"]["digest"],
        "layer": document["layers"][0]["digest"],
    }[which]
    return layout / "blobs" / "sha256" / str(digest)[7:]


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
@pytest.mark.parametrize("damage", ["gone", "truncated", "longer", "changed"])
def test_a_damaged_blob_is_refused(
    store: ImageStore, layout: Path, tmp_path: Path, form: str, which: str, damage: str
) -> None:
    blob = _blob(layout, which)
    data = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        changed = data[:-1] + bytes([data[-1] ^ 1])
        blob.write_bytes({"truncated": data[:-1], "longer": data + b"x"}.get(damage, changed))
    path = write_archive(tmp_path / "a", layout_members(layout)) if form != "oci" else layout
    error = refused(store, f"{form}:{path}")
    assert isinstance(error, ImageCorrupt)
    assert blob.name in error.message


def test_an_archive_cut_off_anywhere_is_refused(
    store: ImageStore, layout: Path, tmp_path: Path
) -> None:
    data = tar_bytes(layout_members(layout))
    end = len(data.rstrip(b"\0"))
    for packed, compression in ((data[:end], ""), (compressed(data, "gzip"), "gzip")):
        for at in range(0, len(packed), max(len(packed) // 16, 1)):
            (tmp_path / "cut").write_bytes(packed[:at])
            error = refused(store, f"oci-archive:{tmp_path}/cut")
            assert isinstance(error, ImageCorrupt), (compression, at)


def test_a_huge_claimed_size_is_refused(store: ImageStore, tmp_path: Path) -> None:
    for size in (1 << 33, 1 << 50):
        info = file("blobs/sha256/" + "0" * 64)[0]
        info.size = size
        (tmp_path / "a").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"little" * 100)
        assert isinstance(refused(store, f"oci-archive:{tmp_path}/a"), ImageCorrupt)


def test_decompression_bombs_are_refused(store: ImageStore, tmp_path: Path) -> None:
    bomb = [file("blobs/sha256/" + "0" * 64, bytes(1 << 25))]
    for compression in ("gzip", "zstd"):
        path = write_archive(tmp_path / "a", bomb, compression)
        for form in ("oci-archive", "docker-archive"):
            assert "times its size" in refused(store, f"{form}:{path}").message
    # a bomb inside a docker archive that is not compressed
    tar = tar_bytes([file("zeros", bytes(1 << 25))])
    members = [
        *(file("c.json", config_of([tar])), file("l.tar", compressed(tar, "gzip"))),
        manifest(listing("c.json", ["l.tar"], ["a:b"])),
    ]
    path = write_archive(tmp_path / "a", members)
    assert "times its size" in refused(store, f"docker-archive:{path}").message


@functools.cache
def _archives() -> dict[str, bytes]:
    """Return one valid archive of every kind, plain and with gzip."""
    with tempfile.TemporaryDirectory() as name:
        write_layout(Path(name), [[file("a", b"x" * 50)]], name="a")
        layout = tar_bytes(layout_members(Path(name)))
    docker = tar_bytes(docker_members("symlinks"))
    plain = {"oci-archive": layout, "docker-archive": docker}
    return plain | {f"{form} gzip": compressed(data, "gzip") for form, data in plain.items()}


@settings(max_examples=150)
@given(
    st.sampled_from(["oci-archive", "docker-archive", "oci-archive gzip", "docker-archive gzip"]),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_flipped_bytes_are_refused_or_harmless(form: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(_archives()[form])
    for at, change in flips:
        data[at % len(data)] ^= change
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        directory = Path(name)
        (directory / "a").write_bytes(data)
        store = ImageStore(directory / "store")
        try:
            stored = load(f"{form.removesuffix(' gzip')}:{directory}/a", store, "x", ignore)
        except (ImageCorrupt, ImageMissing, InvalidArgument):
            assert (blobs(store), leftovers(store)) == (set(), [])
        else:
            boots(store, stored, directory / "work")


def test_a_file_larger_than_the_limit_is_reported(store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "big", [[file("big", os.urandom(3 << 20))]], name="big")
    code = """
import resource, sys
from pathlib import Path
from waggle.domain.errors import DiskFull
from waggle.infra.oci.transfer import load
from waggle.infra.oci.store import ImageStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    load(sys.argv[1], ImageStore(Path(sys.argv[2])), "x", lambda fraction, text: None)
except DiskFull as error:
    print(error)
"""
    words = [sys.executable, "-c", code, f"oci:{tmp_path}/big", str(store.layout.path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert "cannot be stored. The server's disk takes no more: a file in the image" in done.stdout
    assert (blobs(store), leftovers(store), store.list()) == (set(), [], [])


@needs_root
@pytest.mark.parametrize("form", ["oci:{}/big", "oci-archive:{}/archive"])
def test_a_full_disk_is_reported_and_a_later_load_succeeds(tmp_path: Path, form: str) -> None:
    write_layout(tmp_path / "big", [[file("big", os.urandom(3 << 20))]], name="big")
    write_archive(tmp_path / "archive", layout_members(tmp_path / "big"))
    with small_disk(tmp_path / "disk", 8) as disk:
        store = ImageStore(disk.path / "store")
        disk.fill(leave=1 << 20)
        with pytest.raises(DiskFull, match=r"cannot be stored\. .* no room in the image cache"):
            load(form.format(tmp_path), store, "x", ignore)
        assert (blobs(store), leftovers(store), store.list()) == (set(), [], [])
        disk.free()
        stored = load(form.format(tmp_path), store, "x", ignore)
        assert [image.problem for image in store.list()] == [""]
        assert store.resolve(stored).layers
