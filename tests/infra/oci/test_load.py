# SPDX-License-Identifier: Apache-2.0
"""Images from files: what skopeo and `docker save` write is taken, and nothing damaged is."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
from tests.support.images import (
    ARCHITECTURE,
    Member,
    compressed,
    device,
    directory,
    file,
    hard_link,
    symlink,
    tar_bytes,
    write_layout,
)

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument, WaggleError
from waggle.infra.oci.flatten import flatten
from waggle.infra.oci.limits import Limits
from waggle.infra.oci.load import load
from waggle.infra.oci.store import ImageStore

LAYERS = [[directory("etc"), file("etc/hello", b"hello" * 1000)], [file("own", b"x")]]
TARS = [tar_bytes(layer) for layer in LAYERS]
NAME = "registry.example/team/mine:v1"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "mine", LAYERS, name=NAME, config={"Env": ["A=1"]})
    return tmp_path / "mine"


def boots(store: ImageStore, name: str, workspace: Path) -> list[bytes]:
    """Unpack an image of the store as a create does; return the names at its root."""
    workspace.mkdir()
    return sorted(flatten(store.resolve(name), workspace, ignore).root.children)


def refused(store: ImageStore, source: str, name: str | None = "x") -> WaggleError:
    """Hold that a source is refused clearly and that nothing of it stays."""
    before = blobs(store)
    with pytest.raises((ImageCorrupt, ImageMissing, InvalidArgument)) as caught:
        load(source, store, name, ignore, limits=Limits(total_bytes=1 << 26, ratio_from=1 << 22))
    assert (blobs(store), leftovers(store)) == (before, [])
    assert str(caught.value).isprintable(), "nothing of an archive reaches a terminal as it is"
    return caught.value


# What is taken


@pytest.mark.parametrize("form", ["oci:{}:{}", "{}:{}", "oci:{}", "{}"])
def test_a_layout_directory(store: ImageStore, layout: Path, tmp_path: Path, form: str) -> None:
    assert load(form.format(layout, NAME), store, None, ignore) == NAME
    image = store.resolve(NAME)
    assert image.digest == ImageStore(layout).resolve(NAME).digest
    assert image.layout == store.layout.path
    assert boots(store, NAME, tmp_path / "work") == [b"etc", b"own"]
    assert leftovers(store) == []


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_an_oci_archive(store: ImageStore, layout: Path, tmp_path: Path, compression: str) -> None:
    extra = [file("manifest.json", b"[]"), symlink("elsewhere", "/etc/passwd"), file("x/y", b"z")]
    path = write_archive(tmp_path / "a", [*layout_members(layout), *extra], compression)
    assert load(f"oci-archive:{path}", store, None, ignore) == NAME
    assert boots(store, NAME, tmp_path / "work") == [b"etc", b"own"]
    assert len(blobs(store)) == 4


def test_names_as_docker_writes_them_into_an_oci_index(store: ImageStore, tmp_path: Path) -> None:
    """The tag alone beside the full name, so the tag may be there twice."""
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


def test_what_skopeo_archives(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    source = f"oci:{layout}:{NAME}"
    copied(source, f"oci-archive:{tmp_path}/o.tar:{NAME}")
    copied(source, f"docker-archive:{tmp_path}/d.tar:{NAME}")
    assert load(f"oci-archive:{tmp_path}/o.tar", store, None, ignore) == NAME
    assert store.resolve(NAME).digest == ImageStore(layout).resolve(NAME).digest
    other = load(f"docker-archive:{tmp_path}/d.tar", store, "registry.example/d", ignore)
    assert other == "registry.example/d:latest"
    assert store.resolve(other).config.env == ("A=1",)
    assert boots(store, other, tmp_path / "work") == [b"etc", b"own"]
    # and back again: skopeo takes it from the store, umoci unpacks it
    copied(f"oci:{store.layout.path}:{other}", f"docker-archive:{tmp_path}/back.tar:{NAME}")
    assert load(f"docker-archive:{tmp_path}/back.tar:{NAME}", store, None, ignore) == NAME
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{store.layout.path}:{NAME}", tmp_path / "b"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "b" / "rootfs" / "etc" / "hello").read_bytes() == b"hello" * 1000


def docker_members(shape: str) -> list[Member]:
    """One image as Docker has written it over the years."""
    config = config_of(TARS)
    name = f"{sha(config)}.json"
    names = [f"{n * 64}/layer.tar" for n in "ab"]
    if shape == "combined":
        name, names = f"blobs/sha256/{sha(config)}", [f"blobs/sha256/{sha(tar)}" for tar in TARS]
    layers = [file(at, tar) for at, tar in zip(names, TARS, strict=True)]
    if shape == "symlinks":
        layers = [file("one.tar", TARS[0]), file("two.tar", TARS[1])]
        layers += [symlink(names[0], "../one.tar"), symlink(names[1], "../two.tar")]
    if shape == "hard links":
        layers = [file("one.tar", TARS[0]), hard_link(names[0], "one.tar"), layers[1]]
    if shape == "gzip":
        layers = [file(at, compressed(t, "gzip")) for at, t in zip(names, TARS, strict=True)]
    extra = [file(f"{'a' * 64}/VERSION", b"1.0"), file("repositories", b"{}")]
    if shape == "combined":
        extra = [file("oci-layout", b"{}"), file("index.json", b"{}")]
    return [*extra, *layers, file(name, config), manifest(listing(name, names, [NAME]))]


@pytest.mark.parametrize("outer", ["", "gzip", "zstd"])
@pytest.mark.parametrize("shape", ["legacy", "symlinks", "hard links", "combined", "gzip"])
def test_a_docker_archive(store: ImageStore, tmp_path: Path, shape: str, outer: str) -> None:
    path = write_archive(tmp_path / "d", docker_members(shape), outer)
    assert load(f"docker-archive:{path}", store, None, ignore) == NAME
    image = store.resolve(NAME)
    assert [layer.digest for layer in image.layers] == [
        f"sha256:{sha(compressed(tar, 'gzip') if shape == 'gzip' else tar)}" for tar in TARS
    ]
    assert boots(store, NAME, tmp_path / "work") == [b"etc", b"own"]


@pytest.mark.parametrize("pick", ["short:1", "short:1.0", "@1", "registry.example/second"])
def test_one_of_several_images_in_a_docker_archive(
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
    assert [each.name for each in store.list()] == ["a:latest"]


def test_a_damaged_blob_of_the_store_is_mended(store: ImageStore, layout: Path) -> None:
    load(f"oci:{layout}", store, None, ignore)
    victim = store.layout.blob_path(store.resolve(NAME).layers[0])
    whole = victim.read_bytes()
    victim.write_bytes(b"damage")
    load(f"oci:{layout}", store, None, ignore)
    assert victim.read_bytes() == whole


def test_only_this_machines_variant_is_taken(store: ImageStore, tmp_path: Path) -> None:
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
    told: list[float] = []
    load(f"oci:{layout}", store, "a", lambda fraction, text: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0
    archive = write_archive(tmp_path / "a.tar", layout_members(layout))

    def stop(_fraction: float, _text: str) -> None:
        raise KeyboardInterrupt

    for source in (f"oci:{layout}", f"oci-archive:{archive}"):
        with pytest.raises(KeyboardInterrupt):
            load(source, store, "b", stop)
        assert ([each.name for each in store.list()], leftovers(store)) == (["a:latest"], [])


# What is refused


@pytest.mark.parametrize(
    "source",
    ["registry.example/a:b", "docker://registry.example/a", "python", "", "dir:/x", "relative/dir"],
)
def test_what_is_no_file_is_told_how_to_be_brought(store: ImageStore, source: str) -> None:
    error = refused(store, source)
    assert isinstance(error, InvalidArgument)
    assert "waggle image pull" in error.hint


@pytest.mark.parametrize("source", ["oci:x", "oci-archive:x.tar", "oci:/x\0y", "./x", "oci:/x\n"])
def test_a_path_must_be_absolute_and_printable(store: ImageStore, source: str) -> None:
    assert isinstance(refused(store, source), InvalidArgument)


@pytest.mark.parametrize("name", ["", "a b", "../x", "A", "oci:/x"])
def test_a_malformed_name_is_refused(store: ImageStore, layout: Path, name: str) -> None:
    assert isinstance(refused(store, f"oci:{layout}", name), InvalidArgument)


def test_a_name_with_another_digest_is_refused(store: ImageStore, layout: Path) -> None:
    digest = ImageStore(layout).resolve(NAME).digest
    refused(store, f"oci:{layout}", f"a@sha256:{'0' * 64}")
    assert load(f"oci:{layout}", store, f"a@{digest}", ignore) == f"a@{digest}"


@pytest.mark.parametrize("form", ["oci:{}", "oci-archive:{}", "docker-archive:{}"])
def test_what_is_not_there_or_of_another_kind(store: ImageStore, tmp_path: Path, form: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"not a tar at all " * 1000)
    (tmp_path / "random").write_bytes(os.urandom(5000))
    (tmp_path / "gz").write_bytes(compressed(b"not a tar at all " * 1000, "gzip"))
    for name in ("nothing", "pipe", "loop", "empty", "file", "text", "random", "gz"):
        error = refused(store, form.format(tmp_path / name))
        assert str(tmp_path / name) in error.message


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, loop])
def test_a_directory_whose_index_cannot_be_read(
    store: ImageStore, layout: Path, make: Callable[[Path], None]
) -> None:
    (layout / "index.json").unlink()
    make(layout / "index.json")
    assert str(layout) in refused(store, f"oci:{layout}").message


def test_hostile_names_are_shown_harmlessly(store: ImageStore, tmp_path: Path) -> None:
    evil = "\x1b[2J\ud800evil\n"
    images = [listing("c.json", [], [evil]) for _ in range(30)]
    path = write_archive(tmp_path / "d", [manifest(*images)])
    assert "evil" in refused(store, f"docker-archive:{path}").hint
    config = config_of([]).replace(b'"linux"', json.dumps(evil.replace("\ud800", "")).encode())
    one = write_archive(tmp_path / "o", [manifest(listing("c", [], ["a:b"])), file("c", config)])
    assert "evil" in refused(store, f"docker-archive:{one}").message
    write_layout(tmp_path / "l", LAYERS, name=evil.replace("\ud800", ""))
    write_layout(tmp_path / "l", LAYERS, name="b")
    assert "evil" in refused(store, f"oci:{tmp_path}/l").hint


def test_several_images_need_a_choice(store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "two", LAYERS, name="one")
    write_layout(tmp_path / "two", LAYERS[:1], name="two")
    archive = write_archive(tmp_path / "a", layout_members(tmp_path / "two"))
    for source in (f"oci:{tmp_path}/two", f"oci-archive:{archive}"):
        assert "one, two" in refused(store, source).hint
        assert "one, two" in refused(store, f"{source}:three").hint
        assert "--name" in refused(store, f"{source}:two", None).hint, "it may be but a tag"
        assert load(f"{source}:two", store, "b", ignore) == "b:latest"
    [layer] = store.resolve("b").layers
    assert layer in ImageStore(tmp_path / "two").resolve(f"{tmp_path}/two:two").layers


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
def test_a_damaged_blob(
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


def test_an_archive_cut_off_anywhere(store: ImageStore, layout: Path, tmp_path: Path) -> None:
    data = tar_bytes(layout_members(layout))
    end = len(data.rstrip(b"\0"))
    for packed, compression in ((data[:end], ""), (compressed(data, "gzip"), "gzip")):
        for at in range(0, len(packed), max(len(packed) // 16, 1)):
            (tmp_path / "cut").write_bytes(packed[:at])
            error = refused(store, f"oci-archive:{tmp_path}/cut")
            assert isinstance(error, ImageCorrupt), (compression, at)


@pytest.mark.parametrize(
    "member",
    [
        file("../../escape", b"x"),
        file("blobs/sha256/../../../escape", b"x"),
        symlink("index.json", "/etc/passwd"),
        symlink("blobs/sha256/" + "0" * 64, "../../index.json"),
        hard_link("blobs/sha256/" + "0" * 64, "index.json"),
        device("oci-layout", b"3", 1, 5),
        file("index.json", b"[]"),
        file("index.json", b"{" * 100_000),
        file("index.json", b" " * (5 << 20)),
        file("blobs/sha256/" + "0" * 64, b"not of that digest"),
    ],
    ids=lambda member: f"{member[0].name[-20:]}-{member[0].type.decode()}-{len(member[1])}",
)
def test_a_hostile_member_of_an_oci_archive(
    store: ImageStore, layout: Path, tmp_path: Path, member: Member
) -> None:
    path = write_archive(tmp_path / "a", [*layout_members(layout), member])
    assert isinstance(refused(store, f"oci-archive:{path}"), ImageCorrupt)
    assert not list(tmp_path.rglob("escape"))


def test_a_huge_claimed_size(store: ImageStore, tmp_path: Path) -> None:
    for size in (1 << 33, 1 << 50):
        info = file("blobs/sha256/" + "0" * 64)[0]
        info.size = size
        (tmp_path / "a").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"little" * 100)
        assert isinstance(refused(store, f"oci-archive:{tmp_path}/a"), ImageCorrupt)


def test_decompression_bombs(store: ImageStore, tmp_path: Path) -> None:
    bomb = [file("blobs/sha256/" + "0" * 64, bytes(1 << 25))]
    for compression in ("gzip", "zstd"):
        path = write_archive(tmp_path / "a", bomb, compression)
        for form in ("oci-archive", "docker-archive"):
            assert "times its size" in refused(store, f"{form}:{path}").message
    # one inside a docker archive that is itself not compressed
    tar = tar_bytes([file("zeros", bytes(1 << 25))])
    members = [
        *(file("c.json", config_of([tar])), file("l.tar", compressed(tar, "gzip"))),
        manifest(listing("c.json", ["l.tar"], ["a:b"])),
    ]
    path = write_archive(tmp_path / "a", members)
    assert "times its size" in refused(store, f"docker-archive:{path}").message


def test_a_sparse_member_is_refused(store: ImageStore, tmp_path: Path) -> None:
    sparse = file(
        "l.tar",
        b"x" * 512,
        pax_headers={
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": str(1 << 33),
            "GNU.sparse.map": f"{1 << 32},512",
        },
    )
    path = write_archive(tmp_path / "a", [sparse])
    assert "sparse" in refused(store, f"docker-archive:{path}").message


@pytest.mark.parametrize(
    "members",
    [
        [],
        [manifest()],
        [manifest("x")],
        [manifest({})],
        [manifest({"Config": 1})],
        [file("manifest.json", b"{}")],
        [file("manifest.json", b"[")],
        [file("manifest.json", b"[" * 100_000)],
        [file("manifest.json", b" " * (5 << 20))],
        [manifest(listing("c.json", [], []))],
        [manifest({"Config": "c.json", "Layers": "l.tar"}), file("c.json", config_of(TARS[:1]))],
        [manifest(listing("c.json", ["l.tar"], [])), file("c.json", config_of(TARS[:1]))],
        [manifest(listing("c.json", [], [])), file("c.json", config_of(TARS[:1]))],
        [manifest(listing("c.json", [], [])), file("c.json", b"not JSON")],
        [manifest(listing("c.json", [], [])), symlink("c.json", "../c.json")],
        [manifest(listing("c.json", [], [])), symlink("c.json", "/etc/passwd")],
        [manifest(listing("c.json", [], [])), symlink("c.json", "c.json")],
        [manifest(listing("c.json", [], [])), device("c.json", b"3", 1, 5)],
        [manifest(listing("../../etc/passwd", [], []))],
        [manifest(listing("/etc/passwd", [], []))],
        [manifest(listing(f"{'0' * 64}.json", [], [])), file(f"{'0' * 64}.json", config_of([]))],
        [
            manifest(listing("c.json", ["l.tar"], [])),
            *(file("c.json", config_of(TARS[:1])), file("l.tar", TARS[1])),
        ],
        [
            manifest(listing("c.json", ["l.tar"], [])),
            file("c.json", config_of(TARS[:1])),
            file("l.tar", compressed(TARS[1], "gzip")),
        ],
        [
            manifest(listing("c.json", ["l.tar"], [])),
            file("c.json", config_of(TARS[:1])),
            file("l.tar", compressed(TARS[0], "zstd")[:-4]),
        ],
    ],
)
def test_a_bad_docker_archive(store: ImageStore, tmp_path: Path, members: list[Member]) -> None:
    path = write_archive(tmp_path / "d", members)
    refused(store, f"docker-archive:{path}")


def test_too_many_files(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waggle.infra.oci.archive.MAX_FILES", 10)
    path = write_archive(tmp_path / "d", [file(f"f{n}", b"") for n in range(11)])
    assert "more than 10 files" in refused(store, f"docker-archive:{path}").message


def test_layers_that_are_none(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "chart"
    write_layout(path, LAYERS)
    index = json.loads((path / "index.json").read_text())
    [entry] = index["manifests"]
    old = (path / "blobs" / "sha256" / entry["digest"][7:]).read_bytes()
    new = old.replace(b"vnd.oci.image.layer.v1.tar+gzip", b"vnd.example.chart")
    (path / "blobs" / "sha256" / sha(new)).write_bytes(new)
    entry.update(digest=f"sha256:{sha(new)}", size=len(new))
    (path / "index.json").write_text(json.dumps(index))
    assert "not a file system layer" in refused(store, f"oci:{path}").message


@functools.cache
def _archives() -> dict[str, bytes]:
    """One honest archive of each kind, gzip and plain."""
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
def test_flipped_bytes_are_refused_or_do_not_matter(
    form: str, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(_archives()[form])
    for at, change in flips:
        data[at % len(data)] ^= change
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "a").write_bytes(data)
        store = ImageStore(directory / "store")
        try:
            stored = load(f"{form.removesuffix(' gzip')}:{directory}/a", store, "x", ignore)
        except (ImageCorrupt, ImageMissing, InvalidArgument):
            assert (blobs(store), leftovers(store)) == (set(), [])
        else:
            boots(store, stored, directory / "work")


def test_loads_side_by_side(store: ImageStore, tmp_path: Path) -> None:
    """Also with what they share, and with others that clean up meanwhile."""
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


def test_a_full_disk_is_a_clear_error(store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "big", [[file("big", os.urandom(3 << 20))]], name="big")
    code = """
import resource, sys
from pathlib import Path
from waggle.domain.errors import ImageUnavailable
from waggle.infra.oci.load import load
from waggle.infra.oci.store import ImageStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    load(sys.argv[1], ImageStore(Path(sys.argv[2])), "x", lambda fraction, text: None)
except ImageUnavailable as error:
    print(error)
"""
    words = [sys.executable, "-c", code, f"oci:{tmp_path}/big", str(store.layout.path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert "cannot be stored: File too large. Check the free space" in done.stdout
    assert (blobs(store), leftovers(store), store.list()) == (set(), [], [])


# What a killed process leaves

CHILD = """
import os, sys
from pathlib import Path
from waggle.infra.oci.load import load
from waggle.infra.oci.layout import Layout
from waggle.infra.oci.store import ImageStore

where, source, store = sys.argv[1:]

def stop():
    print("here", flush=True)
    sys.stdin.read()

if where == "stored":
    put = Layout.put_file
    def put_and_stop(*args):
        put(*args)
        stop()
    Layout.put_file = put_and_stop

def advance(fraction, text):
    if where == "copying" and fraction > 0.2:
        stop()

load(source, ImageStore(Path(store)), "registry.example/killed", advance)
"""


@pytest.mark.parametrize("where", ["copying", "stored"])
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_a_killed_load_leaves_nothing_that_counts(
    store: ImageStore, layout: Path, tmp_path: Path, where: str, form: str
) -> None:
    load(f"oci:{layout}", store, "kept", ignore)
    kept = blobs(store)
    big = tmp_path / "big"
    write_layout(big, [[file("big", os.urandom(3 << 20))]], name="big")
    source = write_archive(tmp_path / "a", layout_members(big)) if form == "oci-archive" else big
    words = [sys.executable, "-c", CHILD, where, f"{form}:{source}", str(store.layout.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"here\n"
        if where == "copying":
            assert len(leftovers(store)) == 1
        os.kill(child.pid, signal.SIGKILL)
    assert [each.name for each in store.list()] == ["kept:latest"]
    assert blobs(store) != kept or leftovers(store)
    assert store.collect() > 0 or where == "copying"
    assert (blobs(store), leftovers(store)) == (kept, [])
    assert load(f"{form}:{source}", store, "again", ignore) == "again:latest"
