# SPDX-License-Identifier: Apache-2.0
"""`waggle image` on its own store, and `--missing` on the installation's."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import anyio
import pytest
from tests.support.images import busybox_layer, file, write_layout
from tests.support.own_process import typed
from tests.support.waggle_client import call, connected, environment
from tests.support.waggle_process import (
    beside,
    command_line,
    installation,
    own_cache,
    running,
    small,
)

from waggle.config.places import Places


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A store with two images, `tiny` and `other`."""
    cache = tmp_path / "cache"
    write_layout(cache / "images", [busybox_layer()], name="tiny", config={"Env": ["A=b"]})
    write_layout(cache / "images", [busybox_layer(), [file("x", b"y")]], name="other")
    return cache


def image(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {"image_cache_dir": str(tmp_path / "cache")}
    return typed("image", *words, data=tmp_path / "data", settings=settings)


def names(tmp_path: Path) -> list[str]:
    return [row["name"] for row in json.loads(image(tmp_path, "ls", "--json").stdout)]


def test_an_empty_store_lists_nothing(tmp_path: Path) -> None:
    assert json.loads(image(tmp_path, "ls", "--json").stdout) == []
    assert "waggle image build" in image(tmp_path, "ls").stdout


def test_images_are_listed_inspected_and_removed(tmp_path: Path, cache: Path) -> None:
    assert sorted(names(tmp_path)) == ["other", "tiny"]
    table = image(tmp_path, "ls").stdout
    assert "tiny" in table
    assert "sha256:" in table
    shown = json.loads(image(tmp_path, "inspect", "tiny").stdout)
    assert shown["config"]["env"] == ["A=b"]
    blobs = len(list((cache / "images" / "blobs" / "sha256").iterdir()))

    removed = image(tmp_path, "rm", "other")
    assert (removed.returncode, removed.stdout) == (0, "")
    assert "Removed other" in removed.stderr
    assert names(tmp_path) == ["tiny"]
    left = len(list((cache / "images" / "blobs" / "sha256").iterdir()))
    assert left == blobs - 3, "its manifest, configuration and own layer; the shared one stays"
    assert image(tmp_path, "inspect", "tiny").returncode == 0


@pytest.mark.parametrize("words", [("inspect", "nope"), ("rm", "nope")])
def test_an_image_that_is_not_there(tmp_path: Path, cache: Path, words: tuple[str, str]) -> None:
    ended = image(tmp_path, *words)
    assert ended.returncode == 1
    assert ended.stderr.startswith("waggle: There is no image 'nope'")
    assert sorted(names(tmp_path)) == ["other", "tiny"]


def test_a_damaged_image_is_shown_and_can_be_removed(tmp_path: Path, cache: Path) -> None:
    index = json.loads((cache / "images" / "index.json").read_text())
    digest = index["manifests"][0]["digest"].partition(":")[2]
    (cache / "images" / "blobs" / "sha256" / digest).write_bytes(b"{}")
    listed = json.loads(image(tmp_path, "ls", "--json").stdout)
    assert [bool(row["problem"]) for row in sorted(listed, key=lambda e: e["name"])] == [
        False,
        True,
    ]
    assert image(tmp_path, "rm", "tiny").returncode == 0
    assert names(tmp_path) == ["other"]


@pytest.mark.vm
@pytest.mark.timeout(300)
@pytest.mark.anyio
async def test_an_image_in_use_is_not_removed(tmp_path: Path) -> None:
    cache = own_cache(tmp_path / "cache")
    write_layout(cache / "images", [busybox_layer()], name="tiny")
    settings = {**small(tmp_path), "image_cache_dir": str(cache), "image_shell": "tiny"}
    with running(tmp_path, settings) as server:
        async with connected(server) as client, environment(client):
            refused = await anyio.to_thread.run_sync(beside, server, "image", "rm", "tiny")
            assert refused.returncode == 2
            assert "in use by a running environment" in refused.stderr
            assert (await call(client, "list_environments"))["count"] == 1
        removed = await anyio.to_thread.run_sync(beside, server, "image", "rm", "tiny")
        assert removed.returncode == 0
        assert list((cache / "disks").glob("*.erofs")) == [], "its disk is gone, too"


@pytest.mark.vm
def test_build_missing_has_nothing_to_do(tmp_path: Path) -> None:
    installation()
    began = time.monotonic()
    ended = command_line("image", "build", "--missing", data=tmp_path / "data", settings={})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert time.monotonic() - began < 20


@pytest.mark.vm
def test_every_definition_is_built(tmp_path: Path) -> None:
    listed = command_line("image", "ls", "--json", data=tmp_path / "data", settings={})
    built = {row["name"]: row for row in json.loads(listed.stdout)}
    assert set(built) >= {"python", "node", "shell"}
    assert not any(row["problem"] for row in built.values())
    assert Places.of(installation()).disks.is_dir()
