# SPDX-License-Identifier: Apache-2.0
"""Images as other tools write them: one image is chosen and loaded from any kind of source."""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.oci.archives import blobs, ignore, layout_members, skopeo, write_archive
from tests.infra.oci.loading import boots
from tests.support.images import ARCHITECTURE, Layer, compressed, directory, file, tar_bytes

from waggle.domain.errors import ImageCorrupt, ImageMissing, WaggleError
from waggle.infra.oci.registry.endpoints import Endpoint
from waggle.infra.oci.registry.manifests import choose
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import (
    Descriptor,
    architecture,
    candidates,
    parse_config,
    parse_descriptor,
    platform,
)
from waggle.infra.oci.transfer import load

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution.manifest"
KERNEL_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
LAYER: Layer = [directory("etc"), file("etc/hello", b"hello")]
Json = dict[str, Any]


@dataclass
class Writer:
    """A writer of layouts by hand, with digests of one algorithm."""

    path: Path
    algorithm: str = "sha256"

    def digest(self, data: bytes) -> str:
        return f"{self.algorithm}:{hashlib.new(self.algorithm, data).hexdigest()}"

    def put(self, data: bytes, media_type: str, **more: object) -> Json:
        digest = self.digest(data)
        place = self.path / "blobs" / digest.replace(":", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def image(
        self,
        tars: Sequence[bytes] = (tar_bytes(LAYER),),
        *,
        pack: Callable[[bytes], bytes] = bytes,
        layer_type: str = f"{OCI}.layer.v1.tar",
        **config: object,
    ) -> Json:
        document: Json = {
            "os": "linux",
            "architecture": ARCHITECTURE,
            "rootfs": {"type": "layers", "diff_ids": [self.digest(tar) for tar in tars]},
            **config,
        }
        document = {key: value for key, value in document.items() if value != "left out"}
        manifest = {
            "schemaVersion": 2,
            "config": self.put(json.dumps(document).encode(), f"{OCI}.config.v1+json"),
            "layers": [self.put(pack(tar), layer_type) for tar in tars],
        }
        return self.put(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")

    def attestation(self) -> Json:
        """Write what buildx puts beside an image: a manifest whose layers are statements."""
        statement = self.put(b'{"predicate": {}}', "application/vnd.in-toto+json")
        config = self.put(b'{"architecture":"unknown","os":"unknown"}', f"{OCI}.config.v1+json")
        manifest = {"schemaVersion": 2, "config": config, "layers": [statement]}
        return self.put(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")

    def index(self, *entries: Json, media_type: str = f"{OCI}.index.v1+json") -> Json:
        return self.put(
            json.dumps({"schemaVersion": 2, "manifests": [*entries]}).encode(), media_type
        )

    def done(self, *entries: Json) -> str:
        """Write the index; return the source's name."""
        index = {"schemaVersion": 2, "manifests": [*entries]}
        (self.path / "index.json").write_text(json.dumps(index))
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return f"oci:{self.path}"


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "given")


def for_platform(entry: Json, architecture: str, **more: str) -> Json:
    return {**entry, "platform": {"os": "linux", "architecture": architecture, **more}}


def taken(store: ImageStore, source: str, tmp_path: Path) -> list[bytes]:
    load(source, store, "x", ignore)
    return boots(store, "x", tmp_path / "work")


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": KERNEL_NAMES[ARCHITECTURE]},
        {"architecture": ARCHITECTURE.upper(), "os": "Linux"},
        {"architecture": "left out", "os": "left out"},
        {"architecture": None, "os": None, "config": None, "history": None, "created": None},
        {
            "config": {
                "Cmd": None, "Entrypoint": None, "Env": None, "Labels": None, "Volumes": None,
                "User": None, "WorkingDir": None, "ExposedPorts": None, "OnBuild": None,
            }
        },
        {"config": {"Entrypoint": "/bin/sh", "Cmd": "-l"}},
    ],
)  # fmt: skip
def test_incomplete_configurations_are_accepted(
    store: ImageStore, writer: Writer, tmp_path: Path, config: Json
) -> None:
    assert taken(store, writer.done(writer.image(**config)), tmp_path) == [b"etc"]


def test_null_lists_are_read_as_empty(store: ImageStore, writer: Writer) -> None:
    image = writer.image([])
    manifest = json.loads((writer.path / "blobs" / image["digest"].replace(":", "/")).read_bytes())
    manifest["layers"] = None
    null = writer.put(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json", annotations=None)
    load(writer.done(null), store, "x", ignore)
    assert store.resolve("x").layers == ()


@pytest.mark.parametrize("media_type", [f"{OCI}.index.v1+json", f"{DOCKER}.list.v2+json"])
def test_one_image_is_chosen_from_an_index_with_many_kinds_of_entries(
    store: ImageStore, writer: Writer, tmp_path: Path, media_type: str
) -> None:
    wanted, other = writer.image(), writer.image([tar_bytes([file("other")])])
    beside = writer.attestation()
    attested = {"vnd.docker.reference.type": "attestation-manifest"}
    index = writer.index(
        {**beside, "annotations": attested},
        {**beside, "artifactType": "application/vnd.in-toto+json"},
        for_platform({**beside, "annotations": attested}, "unknown", os="unknown"),
        for_platform(other, "riscv64"),
        for_platform(other, ARCHITECTURE, os="windows"),
        for_platform(other, KERNEL_NAMES[ARCHITECTURE], variant="v3"),
        for_platform(wanted, KERNEL_NAMES[ARCHITECTURE]),
        for_platform(other, ARCHITECTURE, variant="v2"),
        media_type=media_type,
    )
    assert taken(store, writer.done(index), tmp_path) == [b"etc"]
    assert store.resolve("x").digest == wanted["digest"]


def test_index_entries_without_a_platform_are_inspected(
    store: ImageStore, writer: Writer, tmp_path: Path
) -> None:
    foreign = writer.image([tar_bytes([file("other")])], architecture="riscv64")
    gone = {**writer.image([tar_bytes([file("gone")])]), "digest": "sha256:" + "0" * 64}
    wanted = writer.image()
    nested = writer.index(writer.attestation(), foreign, wanted)
    index = writer.index(gone, writer.attestation(), foreign, writer.index(foreign), nested)
    assert taken(store, writer.done(index), tmp_path) == [b"etc"]
    with pytest.raises((ImageCorrupt, ImageMissing), match=r"no variant|is for"):
        load(writer.done(writer.index(foreign, writer.attestation())), store, "y", ignore)


def test_deeply_nested_indexes_are_refused(store: ImageStore, writer: Writer) -> None:
    deep = writer.index(writer.image(architecture="riscv64"))
    for _ in range(20):
        deep = writer.index(deep, deep, deep)
    with pytest.raises(ImageCorrupt, match=r"too deeply|too many|no variant"):
        load(writer.done(deep), store, "x", ignore)


def test_a_layout_index_may_list_one_image_per_platform(
    store: ImageStore, writer: Writer, tmp_path: Path
) -> None:
    other = writer.image([tar_bytes([file("other")])], architecture="riscv64")
    source = writer.done(
        for_platform(other, "riscv64"), for_platform(writer.image(), KERNEL_NAMES[ARCHITECTURE])
    )
    assert taken(store, source, tmp_path) == [b"etc"]
    assert store.resolve(source).config.architecture == ARCHITECTURE


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_an_image_with_sha512_digests_is_loaded_checked_and_removed(
    store: ImageStore, tmp_path: Path, form: str
) -> None:
    writer = Writer(tmp_path / "given", "sha512")
    source = writer.done(
        writer.index(for_platform(writer.image(pack=packed("gzip")), ARCHITECTURE))
    )
    if form == "oci-archive":
        path = write_archive(tmp_path / "a.tar", layout_members(writer.path), "gzip")
        source = f"oci-archive:{path}"
    assert taken(store, source, tmp_path) == [b"etc"]
    image = store.resolve("x")
    assert image.digest.startswith("sha256:")
    assert image.layers[0].algorithm == "sha512"
    assert len([*(store.layout.path / "blobs/sha512").iterdir()]) == 2
    victim = store.layout.blob_path(image.layers[0])
    victim.write_bytes(b"x" * victim.stat().st_size)
    with pytest.raises(ImageCorrupt):
        boots(store, "x", tmp_path / "again")
    assert store.drop_damaged(store.resolve("x"))
    store.remove("x", lambda _: False)
    assert blobs(store) == set()
    assert [*(store.layout.path / "blobs/sha512").iterdir()] == []


@pytest.mark.parametrize("words", [[], ["--all"], ["--format", "v2s2"]])
def test_a_directory_by_skopeo_is_loaded_and_its_digests_are_checked(
    store: ImageStore, writer: Writer, tmp_path: Path, words: list[str]
) -> None:
    other = writer.image([tar_bytes([file("other")])], architecture="riscv64")
    index = writer.index(
        for_platform(other, "riscv64"),
        for_platform(writer.image(pack=packed("gzip")), ARCHITECTURE),
    )
    skopeo("copy", "-q", *words, writer.done(index), f"dir:{tmp_path}/there")
    assert taken(store, f"dir:{tmp_path}/there", tmp_path) == [b"etc"]
    for path in (tmp_path / "there").iterdir():
        if len(path.name) == 64:
            path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ImageCorrupt, match="does not have that digest"):
        load(f"dir:{tmp_path}/there", store, "x", ignore)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"layers": []}', b'{"manifests": [1]}'])
def test_an_invalid_directory_of_blobs_is_refused(
    store: ImageStore, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises((ImageCorrupt, ImageMissing)):
        load(f"dir:{tmp_path}", store, "x", ignore)


def test_a_layer_that_does_not_match_its_sha512_is_refused(
    store: ImageStore, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "given", "sha512")
    image = writer.image()
    layer = next(p for p in (writer.path / "blobs/sha512").iterdir() if p.stat().st_size == 10240)
    layer.write_bytes(b"\1" + layer.read_bytes()[1:])
    with pytest.raises(ImageCorrupt, match="does not have that digest"):
        load(writer.done(image), store, "x", ignore)


def packed(compression: str) -> Callable[[bytes], bytes]:
    return lambda data: compressed(data, compression)


@pytest.mark.parametrize(
    "layer_type",
    [
        f"{OCI}.layer.v1.tar",
        f"{OCI}.layer.v1.tar+gzip",
        f"{OCI}.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
@pytest.mark.parametrize(
    "pack", [bytes, packed("gzip"), packed("zstd"), lzma.compress, bz2.compress]
)
def test_a_layer_is_unpacked_by_content_and_not_by_media_type(
    store: ImageStore,
    writer: Writer,
    tmp_path: Path,
    layer_type: str,
    pack: Callable[[bytes], bytes],
) -> None:
    source = writer.done(writer.image(pack=pack, layer_type=layer_type))
    assert taken(store, source, tmp_path) == [b"etc"]


@pytest.mark.parametrize(
    "tar, names",
    [
        (b"", [b"etc"]),
        (bytes(1024), [b"etc"]),
        (tar_bytes([]), [b"etc"]),
        (tar_bytes([file("f", b"12345")])[: 512 + 5], [b"etc", b"f"]),
        (tar_bytes([file("f", b"12345")])[:1024], [b"etc", b"f"]),
        (tar_bytes([directory("./"), file("./f"), file("/f")]) + b"garbage", [b"etc", b"f"]),
    ],
    ids=range(6),
)
def test_empty_and_unterminated_layers_are_accepted(
    store: ImageStore, writer: Writer, tmp_path: Path, tar: bytes, names: list[bytes]
) -> None:
    source = writer.done(writer.image([tar_bytes(LAYER), tar]))
    assert taken(store, source, tmp_path) == names


def entry(**fields: Any) -> Descriptor:
    base = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": 1}
    return parse_descriptor({**base, **fields}, "it")


def test_the_index_of_a_registry_is_read_in_the_same_way() -> None:
    beside = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    given: list[Json] = [
        {"digest": "sha256:" + "1" * 64, **beside},
        {"digest": "sha256:" + "2" * 64, "platform": {"os": "linux", "architecture": "s390x"}},
        {"digest": "sha256:" + "3" * 64},
        {"digest": "sha256:" + "4" * 64, "platform": {"os": "linux", "architecture": "x86_64"}},
    ]
    base = {"mediaType": f"{OCI}.manifest.v1+json", "size": 1}
    endpoint = Endpoint("registry.example", "x", insecure=False)
    for rows, expected in ((given, "4"), (given[:3], "3")):
        index = json.dumps({"manifests": [{**base, **row} for row in rows]}).encode()
        assert choose(index, "linux/amd64", endpoint).hex[0] == expected
    with pytest.raises(ImageMissing, match="no variant"):
        choose(json.dumps({"manifests": [{**base, **given[0]}]}).encode(), "linux/amd64", endpoint)


@pytest.mark.parametrize(
    "said, meant",
    [("x86_64", "amd64"), ("AMD64", "amd64"), ("x86-64", "amd64"), ("aarch64", "arm64"),
     ("riscv64", "riscv64"), ("", "")],
)  # fmt: skip
def test_architectures_have_one_spelling(said: str, meant: str) -> None:
    assert architecture(said) == meant


@given(st.lists(st.sampled_from(["", "v1", "v2", "v3", "v8"])))
def test_the_lowest_variant_comes_first(variants: list[str]) -> None:
    named = {"os": "linux", "architecture": "amd64"}
    entries = [entry(platform={**named, "variant": variant}) for variant in variants]
    found = candidates([*entries, entry()], platform("", "x86_64"))
    assert [entry.variant for entry in found] == [*sorted(variants), ""]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ["os", "architecture", "config", "rootfs", "Env", "Cmd", "diff_ids", "platform", "digest"]


@given(st.dictionaries(st.sampled_from(NAMES), json_values))
def test_any_document_is_read_or_refused(document: Json) -> None:
    for read in (
        lambda: parse_config(json.dumps(document).encode()),
        lambda: entry(**document),
    ):
        try:
            read()
        except WaggleError as error:
            assert isinstance(error, ImageCorrupt)  # noqa: PT017 (any other type is a failure)
