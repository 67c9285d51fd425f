# SPDX-License-Identifier: Apache-2.0
"""Saving images to files: skopeo reads them, output is reproducible, and written all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.infra.oci.archives import copied, ignore, members_of, sha, skopeo
from tests.support.images import directory, file, tar_bytes, write_layout
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.errors import DiskFull, ImageCorrupt, ImageMissing, InvalidArgument
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load
from waggle.infra.oci.transfer.export import save

LAYERS = [[directory("etc"), file("etc/hello", b"hello" * 1000)], [file("own", b"x")]]
NAME = "registry.example/team/mine:v1"
FORMS = ("oci", "oci-archive", "docker-archive")


@pytest.fixture(params=["gzip", "zstd", ""])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> ImageStore:
    path = tmp_path / "images"
    compression = str(request.param)
    write_layout(path, LAYERS, name=NAME, config={"Env": ["A=1"]}, compression=compression)
    write_layout(path, [[file("other", b"o")]], name="python")
    return ImageStore(path)


def diff_ids(source: str) -> list[str]:
    found = json.loads(skopeo("inspect", "--config", source))
    return list(found["rootfs"]["diff_ids"])


@pytest.mark.parametrize("form", FORMS)
def test_skopeo_and_waggle_read_a_saved_image(store: ImageStore, tmp_path: Path, form: str) -> None:
    target = f"{form}:{tmp_path}/out"
    save(store, NAME, target, ignore)
    expected = [f"sha256:{sha(tar_bytes(layer))}" for layer in LAYERS]
    assert diff_ids(target if form != "oci" else f"{target}:{NAME}") == expected
    copied(f"{target}:{NAME}", f"oci:{tmp_path}/skopeo:x")
    for source in (target, f"{target}:{NAME}", f"oci:{tmp_path}/skopeo"):
        other = ImageStore(tmp_path / "other")
        name = load(source, other, "back", ignore)
        assert other.resolve(name).config.diff_ids == tuple(expected)
        assert other.resolve(name).config.env == ("A=1",)
        shutil.rmtree(tmp_path / "other")
    if form != "docker-archive":
        assert load(target, other, None, ignore) == NAME
        assert other.resolve(NAME).digest == store.resolve(NAME).digest


@pytest.mark.parametrize("form", FORMS[1:])
def test_the_same_image_gives_the_same_bytes(store: ImageStore, tmp_path: Path, form: str) -> None:
    save(store, NAME, f"{form}:{tmp_path}/one", ignore)
    (tmp_path / "two").write_bytes(b"something that is replaced")
    save(store, NAME, f"{form}:{tmp_path}/two", ignore)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_saved_image_has_the_right_names(store: ImageStore, tmp_path: Path) -> None:
    def tags(name: str, target: str) -> object:
        save(store, name, f"docker-archive:{tmp_path}/d{target}", ignore)
        return json.loads(members_of(tmp_path / "d")["manifest.json"])[0]["RepoTags"]

    assert tags(NAME, "") == [NAME]
    assert tags(NAME, ":other:v2") == ["other:v2"]
    assert tags("python", "") == ["python:latest"]
    save(store, NAME, f"oci:{tmp_path}/layout:v2", ignore)
    save(store, "python", f"{tmp_path}/layout", ignore)
    assert [image.name for image in ImageStore(tmp_path / "layout").list()] == [
        "python:latest",
        "v2",
    ]


def test_an_image_with_a_docker_manifest_becomes_oci(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    digest = write_layout(store.layout.path, LAYERS, name="oci")
    path = store.layout.path / "blobs" / "sha256" / digest[7:]
    text = path.read_text().replace("vnd.oci.image.manifest.v1", "DOCKER.distribution.manifest.v2")
    text = text.replace("vnd.oci.image.config.v1", "DOCKER.container.image.v1")
    text = text.replace("vnd.oci.image.layer.v1.tar+gzip", "DOCKER.image.rootfs.diff.tar.gzip")
    with store.layout.locked():
        put = store.layout.put_bytes(text.replace("DOCKER", "vnd.docker").encode())
        store.layout.tag(NAME, *put, "application/vnd.docker.distribution.manifest.v2+json")
        store.layout.untag("oci")
    for form in FORMS:
        save(store, NAME, f"{form}:{tmp_path}/{form}", ignore)
        assert len(diff_ids(f"{form}:{tmp_path}/{form}:{NAME}")) == len(LAYERS)
        other = ImageStore(tmp_path / f"store-{form}")
        assert load(f"{form}:{tmp_path}/{form}", other, None, ignore) == NAME
        assert other.resolve(NAME).config == store.resolve(NAME).config


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_image_leaves_no_file(tmp_path: Path, form: str, damage: str) -> None:
    store = ImageStore(tmp_path / "images")
    write_layout(store.layout.path, LAYERS, name=NAME)
    blob = store.layout.blob_path(store.resolve(NAME).layers[1])
    data = blob.read_bytes()
    blob.unlink()
    if damage == "changed":
        blob.write_bytes(data[:-6] + b"change")
    place = tmp_path / "out"
    place.mkdir()
    (place / "old").write_bytes(b"old")
    for name in ("new", "old") if form != "oci" else ("new",):
        with pytest.raises(ImageCorrupt):
            save(store, NAME, f"{form}:{place}/{name}", ignore)
    assert [(path.name, path.read_bytes()) for path in place.iterdir()] == [("old", b"old")]


@pytest.mark.parametrize("form", FORMS)
def test_stopping_leaves_no_file(store: ImageStore, tmp_path: Path, form: str) -> None:
    def stop(_fraction: float, _text: str) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        save(store, NAME, f"{form}:{tmp_path}/out/x", stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_invalid_target_is_refused(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"mine")
    for target in (
        *("out.tar", "docker://registry.example/x", "oci:relative", f"oci-archive:{tmp_path}"),
        *(f"oci:{tmp_path}/full", f"oci-archive:{tmp_path}/no/dir", f"oci:{tmp_path}/full/file"),
        *(f"docker-archive:{tmp_path}/x:Bad Name", f"oci:{tmp_path}/x:Bad Name"),
    ):
        with pytest.raises(InvalidArgument):
            save(store, NAME, target, ignore)
    with pytest.raises(ImageMissing):
        save(store, "nope", f"oci:{tmp_path}/x", ignore)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    assert not (tmp_path / "x").exists()


@needs_root
@pytest.mark.parametrize("form", FORMS)
def test_a_full_target_disk_is_reported_and_left_unchanged(tmp_path: Path, form: str) -> None:
    write_layout(tmp_path / "images", [[file("big", os.urandom(3 << 20))]], name=NAME)
    store = ImageStore(tmp_path / "images")
    with small_disk(tmp_path / "disk", 8) as disk:
        target = f"{form}:{disk.path}/out"
        disk.fill(leave=1 << 20)
        with pytest.raises(DiskFull, match="no room in the place to save it to"):
            save(store, NAME, target, ignore)
        left = [path for path in disk.path.rglob("*") if path.is_file()]
        assert [path.name for path in left if path.stat().st_size > 1000] == ["ballast"]
        disk.free()
        save(store, NAME, target, ignore)
        assert load(target, ImageStore(tmp_path / "other"), "back", ignore)
