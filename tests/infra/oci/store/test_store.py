# SPDX-License-Identifier: Apache-2.0
"""The image store: what it finds, refuses and removes, and how other tools read it."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.images import ARCHITECTURE, directory, file, write_layout

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ResolvedImage
from waggle.infra.oci.store.layout import Layout

LAYER = [directory("etc"), file("etc/hello", b"hello")]


def never(_digest: str) -> bool:
    return False


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def add(store: ImageStore, name: str, content: bytes = b"x") -> str:
    return write_layout(store.layout.path, [LAYER, [file("own", content)]], name=name)


def blob(store: ImageStore, digest: str) -> Path:
    return store.layout.path / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_resolves_a_name_to_manifest_config_and_layers(store: ImageStore) -> None:
    config = {
        "Env": ["A=1"],
        "WorkingDir": "/srv",
        "User": "app",
        "Entrypoint": ["/bin/x"],
        "Cmd": ["-v"],
        "Labels": {"k": "v"},
    }
    digest = write_layout(store.layout.path, [LAYER], name="mine", config=config)
    image = store.resolve("mine")
    assert image.digest == digest
    assert len(image.layers) == 1
    assert (image.config.env, image.config.working_dir) == (("A=1",), "/srv")
    assert (image.config.user, image.config.entrypoint) == ("app", ("/bin/x",))
    assert (image.config.cmd, dict(image.config.labels)) == (("-v",), {"k": "v"})


def test_a_missing_builtin_image_names_the_command_that_makes_it(store: ImageStore) -> None:
    with pytest.raises(ImageMissing) as caught:
        store.resolve("python")
    assert caught.value.hint == "Run 'waggle image build python'."


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a//b", "x" * 300, "a\0b", "a;b"])
def test_a_malformed_name_is_refused(store: ImageStore, name: str) -> None:
    with pytest.raises(InvalidArgument):
        store.resolve(name)


@pytest.mark.parametrize("form", ["{}:v1", "oci:{}:v1", "{}", "oci:{}"])
def test_a_path_names_an_image_in_another_layout(
    store: ImageStore, tmp_path: Path, form: str
) -> None:
    digest = write_layout(tmp_path / "mine", [LAYER], name="v1")
    assert store.resolve(form.format(tmp_path / "mine")).digest == digest


def test_a_path_without_the_image_lists_the_images_there(store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "mine", [LAYER], name="v1")
    write_layout(tmp_path / "mine", [LAYER, LAYER], name="v2")
    for reference in (f"{tmp_path}/mine", f"{tmp_path}/mine:v3"):
        with pytest.raises(ImageMissing, match=r"v1, v2"):
            store.resolve(reference)
    with pytest.raises(ImageMissing, match=r"not an OCI image layout"):
        store.resolve(f"{tmp_path}/nowhere:v1")


@pytest.mark.parametrize(
    "config",
    [{"User": "\ud800"}, {"Env": ["A=\udfff"]}, {"Labels": {"a": "\ud800"}}, {"WorkingDir": "/\0"}],
)
def test_a_configuration_with_invalid_text_is_refused(
    store: ImageStore, config: dict[str, object]
) -> None:
    write_layout(store.layout.path, [LAYER], name="odd", config=config)
    with pytest.raises(ImageCorrupt, match=r"is not a text"):
        store.resolve("odd")


def test_an_image_for_another_platform_is_refused(store: ImageStore) -> None:
    write_layout(store.layout.path, [LAYER], name="other", platform=("linux", "riscv64"))
    with pytest.raises(ImageMissing, match=r"linux/riscv64"):
        store.resolve("other")


def test_an_index_is_resolved_to_the_variant_for_this_host(store: ImageStore) -> None:
    path = store.layout.path
    wanted = write_layout(path, [LAYER], name="a")
    other = write_layout(path, [LAYER], name="b", platform=("linux", "riscv64"))
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": blob(store, digest).stat().st_size,
            "platform": {"os": "linux", "architecture": architecture},
        }
        for digest, architecture in ((other, "riscv64"), (wanted, ARCHITECTURE))
    ]
    index_type = "application/vnd.oci.image.index.v1+json"
    with store.layout.locked():
        document = {"schemaVersion": 2, "mediaType": index_type, "manifests": entries}
        digest, size = store.layout.put_bytes(json.dumps(document).encode())
        store.layout.tag("multi", digest, size, index_type)
        store.layout.untag("a")
        store.layout.untag("b")
        store.layout.collect()
    assert store.resolve("multi").digest == wanted


def _config_digest(image: ResolvedImage) -> str:
    manifest = Layout(image.layout).path / "blobs" / "sha256" / image.digest[7:]
    return str(json.loads(manifest.read_text())["config"]["digest"])


@pytest.mark.parametrize("which", ["manifest", "config"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "a pipe"])
def test_a_damaged_document_names_the_blob_and_the_remedy(
    store: ImageStore, which: str, damage: str
) -> None:
    digest = add(store, "python")
    victim = digest if which == "manifest" else _config_digest(store.resolve("python"))
    path = blob(store, victim)
    data = path.read_bytes()
    if damage in {"gone", "a pipe"}:
        path.unlink()
    if damage == "a pipe":
        os.mkfifo(path)
    elif damage != "gone":
        path.write_bytes(data[:-1] if damage == "truncated" else data.replace(b"a", b"b", 1))
    with pytest.raises(ImageCorrupt, match=victim) as caught:
        store.resolve("python")
    assert "waggle image build python" in caught.value.hint
    [listed] = store.list()
    assert victim in listed.problem
    store.remove("python", never)
    assert store.list() == []


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"manifests": [1]}', '{"manifests": [{"digest": "sha256:xy"}]}']
)
def test_a_damaged_index_is_reported_clearly(store: ImageStore, index: str) -> None:
    add(store, "a")
    (store.layout.path / "index.json").write_text(index)
    with pytest.raises(ImageCorrupt, match=r"index\.json"):
        store.list()


def test_lists_by_name_with_sizes(store: ImageStore) -> None:
    assert store.list() == []
    add(store, "b")
    add(store, "a")
    assert [image.name for image in store.list()] == ["a", "b"]
    assert all(image.size and not image.problem for image in store.list())


def test_removing_keeps_the_blobs_of_other_images(store: ImageStore) -> None:
    add(store, "a", b"a" * 1000)
    add(store, "b", b"b")
    assert store.remove("a", never) > 0
    assert [image.name for image in store.list()] == ["b"]
    image = store.resolve("b")
    assert all(store.layout.blob_path(layer).exists() for layer in image.layers)
    kept = {d.hex for d in image.layers} | {image.digest[7:], _config_digest(image)[7:]}
    assert {p.name for p in (store.layout.path / "blobs" / "sha256").iterdir()} == kept
    with pytest.raises(ImageMissing):
        store.remove("a", never)


def test_an_image_in_use_is_not_removed(store: ImageStore) -> None:
    digest = add(store, "a")
    with pytest.raises(InvalidArgument, match=r"in use"):
        store.remove("a", {digest}.__contains__)
    assert store.resolve("a").digest == digest


def test_collect_spares_a_workspace_in_use_and_removes_a_dead_one(store: ImageStore) -> None:
    add(store, "a")
    dead = store.layout.path / ".tmp-dead"
    dead.mkdir()
    with store.layout.workspace() as workspace:
        store.collect()
        assert workspace.is_dir()
    assert not dead.exists()
    assert not workspace.exists()


def test_last_use_and_the_blobs_of_a_name_are_reported(store: ImageStore, tmp_path: Path) -> None:
    digest = add(store, "a")
    os.utime(blob(store, digest), (100, 100))
    assert ([image.used for image in store.list()], store.last_used(digest)) == ([100.0], 100.0)
    [held] = store.holdings()
    files = (store.layout.path / "blobs" / "sha256").iterdir()
    assert dict(held.blobs) == {f"sha256:{path.name}": path.stat().st_size for path in files}
    assert (held.name, held.digest, held.used) == ("a", digest, 100.0)
    store.note_use(store.resolve("a"))
    assert store.last_used(digest) > 100
    other = write_layout(tmp_path / "mine", [LAYER])
    store.note_use(store.resolve(f"oci:{tmp_path}/mine"))
    assert store.last_used(other) == 0, "not an image of this store"


@pytest.mark.parametrize("name", ["mine", "mine:latest", "registry.example/a:v1", "[::1]:5000/a"])
def test_every_spelling_of_a_name_finds_its_image(store: ImageStore, name: str) -> None:
    canonical = {"mine": "mine:latest", "[::1]:5000/a": "[::1]:5000/a:latest"}.get(name, name)
    digest = add(store, canonical)
    assert store.resolve(name).digest == digest
    assert store.resolve(name).reference == canonical
    store.remove(name, never)
    assert store.list() == []


def test_an_exact_name_comes_first(store: ImageStore) -> None:
    built, loaded = add(store, "python", b"1"), add(store, "python:latest", b"2")
    assert store.resolve("python").digest == built
    assert store.resolve("python:latest").digest == loaded
    store.remove("python", never)
    assert store.resolve("python").digest == loaded


def test_an_archive_must_be_loaded_first(store: ImageStore) -> None:
    with pytest.raises(ImageMissing, match=r"waggle image load"):
        store.resolve("oci-archive:/srv/a.tar")


def test_concurrent_writers_lose_no_name(store: ImageStore) -> None:
    digest = add(store, "first")
    size = blob(store, digest).stat().st_size

    def tag(number: int) -> None:
        with store.layout.locked():
            store.layout.tag(f"n{number}", digest, size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tag, range(40)))
    assert {image.name for image in store.list()} == {"first", *(f"n{n}" for n in range(40))}


def test_skopeo_and_umoci_read_an_image_from_the_store(store: ImageStore, tmp_path: Path) -> None:
    digest = add(store, "python")
    with store.layout.locked():
        store.layout.tag("copy", digest, blob(store, digest).stat().st_size)
    source = f"oci:{store.layout.path}:copy"
    policy = ["--insecure-policy"]
    shown = subprocess.run(
        ["skopeo", *policy, "inspect", source], capture_output=True, check=True, text=True
    )
    assert json.loads(shown.stdout)["Digest"] == digest
    target = tmp_path / "copied"
    subprocess.run(
        ["skopeo", *policy, "copy", "-q", source, f"oci:{target}:x"], check=True, timeout=60
    )
    assert store.resolve(f"{target}:x").digest == digest
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{store.layout.path}:copy", tmp_path / "b"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "b" / "rootfs" / "etc" / "hello").read_bytes() == b"hello"
