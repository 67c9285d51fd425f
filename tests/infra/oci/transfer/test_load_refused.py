# SPDX-License-Identifier: Apache-2.0
"""Loading images from files: invalid and hostile images are refused and leave nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.infra.oci.archives import (
    config_of,
    ignore,
    layout_members,
    listing,
    manifest,
    sha,
    write_archive,
)
from tests.infra.oci.loading import LAYERS, NAME, TARS, refused
from tests.support.images import (
    Member,
    compressed,
    device,
    file,
    hard_link,
    symlink,
    write_layout,
)

from waggle.domain.errors import ImageCorrupt, InvalidArgument
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load


@pytest.mark.parametrize(
    "source",
    [
        "registry.example/a:b",
        "docker://registry.example/a",
        "python",
        "",
        "directory:/x",
        "relative/dir",
    ],
)
def test_a_source_that_is_no_file_gets_a_hint_to_pull_it(store: ImageStore, source: str) -> None:
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
def test_a_missing_file_or_one_of_another_kind_is_refused(
    store: ImageStore, tmp_path: Path, form: str
) -> None:
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
def test_a_directory_whose_index_cannot_be_read_is_refused(
    store: ImageStore, layout: Path, make: Callable[[Path], None]
) -> None:
    (layout / "index.json").unlink()
    make(layout / "index.json")
    assert str(layout) in refused(store, f"oci:{layout}").message


def test_hostile_names_are_shown_harmlessly(store: ImageStore, tmp_path: Path) -> None:
    evil = "\x1b[2J\ud800evil\n"
    images = [listing("c.json", [], [evil.replace("\ud800", "")]) for _ in range(30)]
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
def test_a_hostile_member_of_an_oci_archive_is_refused(
    store: ImageStore, layout: Path, tmp_path: Path, member: Member
) -> None:
    path = write_archive(tmp_path / "a", [*layout_members(layout), member])
    assert isinstance(refused(store, f"oci-archive:{path}"), ImageCorrupt)
    assert not list(tmp_path.rglob("escape"))


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
def test_an_invalid_docker_archive_is_refused(
    store: ImageStore, tmp_path: Path, members: list[Member]
) -> None:
    path = write_archive(tmp_path / "d", members)
    refused(store, f"docker-archive:{path}")


def test_too_many_files_are_refused(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waggle.infra.oci.transfer.archive.MAX_FILES", 10)
    path = write_archive(tmp_path / "d", [file(f"f{n}", b"") for n in range(11)])
    assert "more than 10 files" in refused(store, f"docker-archive:{path}").message


def test_layers_of_another_media_type_are_refused(store: ImageStore, tmp_path: Path) -> None:
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
