# SPDX-License-Identifier: Apache-2.0
"""`waggle image prune` on its own store."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.images import file, write_layout
from tests.support.own_process import typed

from waggle.cli.durations import parse_option
from waggle.cli.storage.image import parse_size
from waggle.domain.errors import InvalidArgument


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A store with `old`, last used long ago, `new` and `python`."""
    path = tmp_path / "cache" / "images"
    for name, when in (("new", 2_000_000_000), ("old", 1_000), ("python", 1_000)):
        digest = write_layout(path, [[file(name, os.urandom(2_000_000))]], name=name)
        os.utime(path / "blobs" / "sha256" / digest[7:], (when, when))
    return path


def image(tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {"image_cache_dir": str(tmp_path / "cache"), **more}
    return typed("image", *words, data=tmp_path / "data", settings=settings)


def names(tmp_path: Path) -> list[str]:
    return [row["name"] for row in json.loads(image(tmp_path, "ls", "--json").stdout)]


def test_images_are_pruned_by_age_unless_a_setting_names_them(tmp_path: Path, images: Path) -> None:
    listed = image(tmp_path, "prune", "--older-than", "1h", "--dry-run")
    assert (listed.returncode, listed.stdout) == (0, "")
    assert "Would remove old; last used 1970-01-01T00:16:40Z." in listed.stderr
    assert names(tmp_path) == ["new", "old", "python"]
    done = image(tmp_path, "prune", "--older-than", "1h")
    assert "Removed old" in done.stderr
    assert "2.0 MB are free again" in done.stderr
    assert names(tmp_path) == ["new", "python"]
    assert len(list((images / "blobs" / "sha256").iterdir())) == 6


def test_images_are_pruned_by_size_with_json_output(tmp_path: Path, images: Path) -> None:
    def pruned(*words: str) -> dict[str, Any]:
        return dict(json.loads(image(tmp_path, "prune", "--json", *words).stdout))

    first = pruned("--max-size", "5MB", "--dry-run")
    assert first["dry_run"] is True
    assert first == pruned("--max-size", "5MB") | {"dry_run": True}
    assert [row["names"] for row in first["removed"]] == [["old"]]
    assert first["kept_bytes"] < 5_000_000 < first["kept_bytes"] + first["freed_bytes"]
    assert pruned("--max-size", "5MB")["removed"] == []
    assert names(tmp_path) == ["new", "python"]


def test_the_setting_is_the_bound_when_none_is_given(tmp_path: Path, images: Path) -> None:
    assert image(tmp_path, "prune", image_cache_max_mb="5").returncode == 0
    assert names(tmp_path) == ["new", "python"]


def test_unpacked_layers_may_use_the_remaining_size(tmp_path: Path, images: Path) -> None:
    layer = tmp_path / "cache" / "layers" / f"{'1' * 64}.v2"
    layer.mkdir(parents=True)
    (layer / "data").write_bytes(bytes(1_500_000))
    os.utime(layer, (1_000, 1_000))
    assert image(tmp_path, "prune", "--max-size", "8MB").returncode == 0
    assert layer.is_dir()
    done = image(tmp_path, "prune", "--max-size", "7MB", "--json")
    assert json.loads(done.stdout)["removed"] == []
    assert json.loads(done.stdout)["freed_bytes"] == 1_500_000
    assert not layer.exists()
    assert names(tmp_path) == ["new", "old", "python"]


def test_without_a_bound_only_leftovers_are_removed(tmp_path: Path, images: Path) -> None:
    (images / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"of a killed command")
    (images / ".tmp-dead").mkdir()
    assert image(tmp_path, "prune", image_cache_max_mb="0").returncode == 0
    assert not (images / "blobs" / "sha256" / ("0" * 64)).exists()
    assert not (images / ".tmp-dead").exists()
    assert names(tmp_path) == ["new", "old", "python"]


def test_an_empty_cache(tmp_path: Path) -> None:
    ended = image(tmp_path, "prune", "--max-size", "1MB", "--older-than", "1h")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert not (tmp_path / "cache").exists()


def test_sizes_and_ages_are_parsed() -> None:
    assert [parse_size(text) for text in ("0MB", "5MB", "20GB", "1MiB", "8GiB")] == [
        *(0, 5 * 10**6, 20 * 10**9, 1 << 20, 8 << 30)
    ]


@given(st.text(max_size=10) | st.from_regex(r"\A-?[0-9]{1,12}[A-Za-z]{0,3}\Z"))
def test_other_sizes_and_ages_are_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert parse_size(text) >= 0
    with contextlib.suppress(InvalidArgument):
        assert parse_option("--older-than", text).total_seconds() >= 0
