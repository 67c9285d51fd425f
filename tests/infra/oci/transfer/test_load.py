# SPDX-License-Identifier: Apache-2.0
"""Loading images from files that skopeo and `docker save` write."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.infra.oci.archives import (
    blobs,
    config_of,
    copied,
    ignore,
    layout_members,
    leftovers,
    listing,
    manifest,
    sha,
    write_archive,
)
from tests.infra.oci.loading import LAYERS, NAME, TARS, boots, docker_members, refused
from tests.support.images import (
    ARCHITECTURE,
    compressed,
    file,
    symlink,
    write_layout,
)

from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load


@pytest.mark.parametrize("form", ["oci:{}:{}", "{}:{}", "oci:{}", "{}"])
def test_a_layout_directory_is_loaded(
    store: ImageStore, layout: Path, tmp_path: Path, form: str
) -> None:
    assert load(form.format(layout, NAME), store, None, ignore) == NAME
    image = store.resolve(NAME)
    assert image.digest == ImageStore(layout).resolve(NAME).digest
    assert image.layout == store.layout.path
    assert boots(store, NAME, tmp_path / "work") == [b"etc", b"own"]
    assert leftovers(store) == []


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_an_oci_archive_is_loaded(
    store: ImageStore, layout: Path, tmp_path: Path, compression: str
) -> None:
    extra = [file("manifest.json", b"[]"), symlink("elsewhere", "/etc/passwd"), file("x/y", b"z")]
    path = write_archive(tmp_path / "a", [*layout_members(layout), *extra], compression)
    assert load(f"oci-archive:{path}", store, None, ignore) == NAME
    assert boots(store, NAME, tmp_path / "work") == [b"etc", b"own"]
    assert len(blobs(store)) == 4


def test_names_that_docker_writes_into_an_oci_index_are_found(
    store: ImageStore, tmp_path: Path
) -> None:
    """Docker writes the tag alone beside the full name, so a tag may occur twice."""
    path = tmp_path / "two"
    write_layout(path, LAYERS, name="latest")
    write_layout(path, LAYERS[:1], name="latest")
    index = json.loads((path / "index.json").read_text())
    for entry, name in zip(index["manifests"], ("one", "two"), strict=True):
        full = f"registry.example/{name}:latest"
        entry["annotations"]["io.containerd.image.name"] = full
    (path / "index.json").write_text(json.dumps(index))
    members = [file(f"./{info.name}", data) for info, data in layout_members(path)]
    archive = write_archive(tmp_path / "a", members)
    for source in (f"oci:{path}", f"oci-archive:{archive}"):
        for name, layers in (("one", 2), ("two", 1)):
            full = f"registry.example/{name}:latest"
            assert load(f"{source}:registry.example/{name}", store, None, ignore) == full
            assert len(store.resolve(full).layers) == layers
        assert "registry.example/one:latest, registry" in refused(store, source).hint


def test_archives_by_skopeo_are_loaded(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    source = f"oci:{layout}:{NAME}"
    copied(source, f"oci-archive:{tmp_path}/o.tar:{NAME}")
    copied(source, f"docker-archive:{tmp_path}/d.tar:{NAME}")
    assert load(f"oci-archive:{tmp_path}/o.tar", store, None, ignore) == NAME
    assert store.resolve(NAME).digest == ImageStore(layout).resolve(NAME).digest
    other = load(f"docker-archive:{tmp_path}/d.tar", store, "registry.example/d", ignore)
    assert other == "registry.example/d:latest"
    assert store.resolve(other).config.env == ("A=1",)
    assert boots(store, other, tmp_path / "work") == [b"etc", b"own"]
    # and back again: skopeo copies it from the store, umoci unpacks it
    copied(f"oci:{store.layout.path}:{other}", f"docker-archive:{tmp_path}/back.tar:{NAME}")
    assert load(f"docker-archive:{tmp_path}/back.tar:{NAME}", store, None, ignore) == NAME
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{store.layout.path}:{NAME}", tmp_path / "b"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "b" / "rootfs" / "etc" / "hello").read_bytes() == b"hello" * 1000


@pytest.mark.parametrize("outer", ["", "gzip", "zstd"])
@pytest.mark.parametrize("shape", ["legacy", "symlinks", "hard links", "combined", "gzip"])
def test_a_docker_archive_is_loaded(
    store: ImageStore, tmp_path: Path, shape: str, outer: str
) -> None:
    path = write_archive(tmp_path / "d", docker_members(shape), outer)
    assert load(f"docker-archive:{path}", store, None, ignore) == NAME
    image = store.resolve(NAME)
    assert [layer.digest for layer in image.layers] == [
        f"sha256:{sha(compressed(tar, 'gzip') if shape == 'gzip' else tar)}" for tar in TARS
    ]
    assert boots(store, NAME, tmp_path / "work") == [b"etc", b"own"]


@pytest.mark.parametrize("shape", ["legacy", "combined"])
def test_the_kind_of_an_archive_is_detected(
    store: ImageStore, layout: Path, tmp_path: Path, shape: str
) -> None:
    docker = write_archive(tmp_path / "d", docker_members(shape))
    assert load(str(docker), store, None, ignore) == NAME
    oci = write_archive(tmp_path / "o", layout_members(layout))
    assert load(f"{oci}:{NAME}", store, "other", ignore) == "other:latest"
    assert boots(store, "other", tmp_path / "work") == [b"etc", b"own"]


@pytest.mark.parametrize("pick", ["short:1", "short:1.0", "@1", "registry.example/second"])
def test_one_of_several_images_in_a_docker_archive_is_chosen(
    store: ImageStore, tmp_path: Path, pick: str
) -> None:
    first, second = config_of(TARS[:1]), config_of(TARS[1:])
    members = [
        *(file("a.json", first), file("b.json", second)),
        *(file("a.tar", TARS[0]), file("b.tar", TARS[1])),
        manifest(
            listing("a.json", ["a.tar"], ["short:1"]),
            listing("b.json", ["b.tar"], ["short:1.0", "registry.example/second:latest"]),
        ),
    ]
    path = write_archive(tmp_path / "d", members)
    stored = load(f"docker-archive:{path}:{pick}", store, None, ignore)
    assert [layer.digest for layer in store.resolve(stored).layers] == [
        f"sha256:{sha(TARS[0] if pick == 'short:1' else TARS[1])}"
    ]
    error = refused(store, f"docker-archive:{path}")
    assert "short:1, short:1.0, registry.example/second:latest" in error.hint
    refused(store, f"docker-archive:{path}:@2")
    refused(store, f"docker-archive:{path}:nope")


def test_an_image_without_a_name_needs_one(store: ImageStore, tmp_path: Path) -> None:
    members = [file("c.json", config_of(TARS[:1])), file("a.tar", TARS[0])]
    path = write_archive(tmp_path / "d", [*members, manifest(listing("c.json", ["a.tar"], None))])
    assert "--name" in refused(store, f"docker-archive:{path}", None).hint
    assert load(f"docker-archive:{path}", store, "mine", ignore) == "mine:latest"
    assert store.resolve("mine").reference == "mine:latest"


def test_loading_again_changes_nothing_and_another_image_takes_the_name(
    store: ImageStore, layout: Path, tmp_path: Path
) -> None:
    load(f"oci:{layout}", store, "a", ignore)
    first = blobs(store)
    load(f"oci:{layout}", store, "a", ignore)
    assert blobs(store) == first
    write_layout(tmp_path / "other", [[file("other", b"o")]])
    load(f"oci:{tmp_path}/other", store, "a", ignore)
    assert not blobs(store) & first, "what nobody names any more is gone"
    assert [image.name for image in store.list()] == ["a:latest"]


def test_a_damaged_blob_of_the_store_is_repaired(store: ImageStore, layout: Path) -> None:
    load(f"oci:{layout}", store, None, ignore)
    victim = store.layout.blob_path(store.resolve(NAME).layers[0])
    whole = victim.read_bytes()
    victim.write_bytes(b"damage")
    load(f"oci:{layout}", store, None, ignore)
    assert victim.read_bytes() == whole


def test_only_the_variant_for_this_host_is_loaded(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "multi"
    ours = write_layout(path, LAYERS, name="a")
    other = write_layout(path, [[file("riscv", b"r")]], name="b", platform=("linux", "riscv64"))
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest,
                    "size": (path / "blobs" / "sha256" / digest[7:]).stat().st_size,
                    "platform": {"os": "linux", "architecture": architecture},
                }
                for digest, architecture in ((other, "riscv64"), (ours, ARCHITECTURE))
            ],
        }
    ).encode()
    (path / "blobs" / "sha256" / sha(index)).write_bytes(index)
    entry = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": f"sha256:{sha(index)}",
        "size": len(index),
    }
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    load(f"oci:{path}", store, "multi", ignore)
    assert store.resolve("multi").digest == ours
    assert len(blobs(store)) == 4


def test_progress_grows_and_can_stop_it(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    fractions: list[float] = []
    load(f"oci:{layout}", store, "a", lambda fraction, text: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    archive = write_archive(tmp_path / "a.tar", layout_members(layout))

    def stop(_fraction: float, _text: str) -> None:
        raise KeyboardInterrupt

    for source in (f"oci:{layout}", f"oci-archive:{archive}"):
        with pytest.raises(KeyboardInterrupt):
            load(source, store, "b", stop)
        assert ([image.name for image in store.list()], leftovers(store)) == (["a:latest"], [])


def test_concurrent_loads_do_not_disturb_each_other(store: ImageStore, tmp_path: Path) -> None:
    """The loads share blobs, and the store is collected meanwhile."""
    names = [f"n{number}" for number in range(8)]
    for name in names:
        write_layout(tmp_path / name, [LAYERS[0], [file(name, name.encode())]])

    def bring(name: str) -> str:
        store.collect()
        return load(f"oci:{tmp_path}/{name}", ImageStore(store.layout.path), name, ignore)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(bring, names)) == [f"{name}:latest" for name in names]
    assert (len(blobs(store)), leftovers(store)) == (8 * 3 + 1, [])
    for name in names:
        assert boots(store, name, tmp_path / f"work-{name}") == [b"etc", name.encode()]
