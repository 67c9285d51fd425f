# SPDX-License-Identifier: Apache-2.0
"""`waggle image load|save|pull|push`, with real files and a real registry on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.infra.oci.archives import config_of, layout_members, sha, skopeo, write_archive
from tests.support.images import directory, file, tar_bytes, write_layout
from tests.support.own_process import typed
from tests.support.registry import make_tls, run_registry
from tests.support.waggle_process import environ

from waggle.cli.storage import image_transfer as transfer
from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.store import ImageStore
from waggle.service.local.images.images import ImageService

LAYERS = [[directory("etc"), file("etc/hello", b"hello" * 1000)], [file("own", b"x")]]
NAME = "registry.example/team/mine:v1"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "mine", LAYERS, name=NAME)
    return tmp_path / "mine"


def image(tmp_path: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    given = {"image_cache_dir": str(tmp_path / "cache"), **settings}
    return typed("image", *words, data=tmp_path / "data", settings=given)


def listed(tmp_path: Path) -> list[dict[str, Any]]:
    return list(json.loads(image(tmp_path, "ls", "--json").stdout))


def test_load_makes_the_disk_and_prints_the_name(tmp_path: Path, layout: Path) -> None:
    ended = image(tmp_path, "load", f"oci:{layout}")
    assert (ended.returncode, ended.stdout) == (0, f"{NAME}\n")
    assert "sha256:" in ended.stderr
    [row] = listed(tmp_path)
    assert row["name"] == NAME
    assert row["disk_bytes"] > 0
    assert row["used"].endswith("Z")
    table = image(tmp_path, "ls").stdout
    assert NAME in table
    assert "MB" in table
    (tmp_path / "cache" / "disks" / f"{row['digest'][7:]}.v2.erofs").unlink()
    assert "not made" in image(tmp_path, "ls").stdout


def test_a_terminal_shows_a_progress_bar(tmp_path: Path, layout: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "waggle", "image", "load", f"oci:{layout}"]
    env = environ(tmp_path / "data", {"image_cache_dir": str(tmp_path / "cache")})
    with subprocess.Popen(words, env=env, stderr=theirs, stdout=subprocess.DEVNULL) as child:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while data := os.read(ours, 4096):
                seen += data
        assert child.wait() == 0
    os.close(ours)
    assert b"Making the disk of" in seen
    assert "━━━".encode() in seen
    assert f"{NAME} is sha256:".encode() in seen


def test_load_with_json_output(tmp_path: Path, layout: Path) -> None:
    ended = image(tmp_path, "load", f"{layout}", "--name", "Registry.example/a", "--json")
    found = json.loads(ended.stdout)
    assert found["name"] == "registry.example/a:latest"
    [row] = listed(tmp_path)
    assert (found["digest"], found["size"]) == (row["digest"], row["size"])


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_save_and_load_again(tmp_path: Path, layout: Path, form: str) -> None:
    assert image(tmp_path, "load", f"oci:{layout}").returncode == 0
    target = f"{form}:{tmp_path}/saved"
    ended = image(tmp_path, "save", NAME, target)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert json.loads(skopeo("inspect", "--config", f"{target}:{NAME}"))["rootfs"]
    assert image(tmp_path, "rm", NAME).returncode == 0
    assert listed(tmp_path) == []
    assert image(tmp_path, "load", target).stdout == f"{NAME}\n"


def test_a_relative_path_starts_at_the_current_directory(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert image(tmp_path, "load", "oci:mine").stdout == f"{NAME}\n"
    assert image(tmp_path, "load", "./mine").stdout == f"{NAME}\n"
    assert image(tmp_path, "save", NAME, "oci-archive:a.tar").returncode == 0
    assert image(tmp_path, "load", "a.tar").stdout == f"{NAME}\n"
    assert image(tmp_path, "load", "./a.tar").stdout == f"{NAME}\n"


def test_a_missing_source_is_reported(tmp_path: Path) -> None:
    ended = image(tmp_path, "load", f"oci-archive:{tmp_path}/none.tar")
    assert ended.returncode == 1
    assert f"{tmp_path}/none.tar cannot be read" in ended.stderr
    assert ended.stdout == ""


def test_two_layers_that_fail_at_once_keep_no_image(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers are read at the same time, so both may fail before one is cancelled."""

    def both_fail(_images: ImageService, _name: str) -> None:
        raise ExceptionGroup("layers", [ImageCorrupt("one"), ImageCorrupt("two")])

    monkeypatch.setattr(transfer, "make_disk", both_fail)
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WAGGLE_IMAGE_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ExceptionGroup, match="layers"):
        transfer.load(f"oci:{layout}", None, as_json=False)
    assert listed(tmp_path) == []


def test_a_layer_with_a_wrong_diff_id_is_not_kept(tmp_path: Path, layout: Path) -> None:
    [diff_id, _] = ImageStore(layout).resolve(NAME).config.diff_ids
    config = config_of([tar_bytes(layer) for layer in LAYERS]).decode()
    _replace_config(layout, config.replace(diff_id, f"sha256:{'0' * 64}").encode())
    ended = image(tmp_path, "load", f"oci:{layout}")
    assert ended.returncode == 1
    assert "does not unpack to its diff id" in ended.stderr
    assert listed(tmp_path) == []
    blobs = [*(tmp_path / "cache" / "images" / "blobs" / "sha256").iterdir()]
    assert (blobs, [*(tmp_path / "cache" / "disks").glob("*.erofs")]) == ([], [])


def _replace_config(layout: Path, config: bytes) -> None:
    """Put another configuration into the only image of a layout, with correct digests."""
    index = json.loads((layout / "index.json").read_text())
    [entry] = index["manifests"]
    manifest = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_text())
    manifest["config"].update(digest=f"sha256:{sha(config)}", size=len(config))
    data = json.dumps(manifest).encode()
    for content in (config, data):
        (layout / "blobs/sha256" / sha(content)).write_bytes(content)
    entry.update(digest=f"sha256:{sha(data)}", size=len(data))
    (layout / "index.json").write_text(json.dumps(index))


def test_push_pull_and_a_missing_image(tmp_path: Path, layout: Path) -> None:
    tls = make_tls(tmp_path / "tls")
    (tmp_path / "ca.pem").write_bytes(tls.ca_pem)
    trusted = {"ca_bundle": str(tmp_path / "ca.pem")}
    assert image(tmp_path, "load", f"oci:{layout}", "--name", "mine").returncode == 0
    [row] = listed(tmp_path)
    with run_registry(tmp_path / "registry", tls=tls) as registry:
        there = f"{registry.name}/team/mine:v1"
        pushed = image(tmp_path, "push", "mine", there, "--json", **trusted)
        assert json.loads(pushed.stdout) == {"name": there, "digest": row["digest"]}
        assert image(tmp_path, "rm", "mine").returncode == 0
        pulled = image(tmp_path, "pull", there, **trusted)
        assert (pulled.returncode, pulled.stdout) == (0, f"{there}\n")
        [again] = listed(tmp_path)
        assert (again["name"], again["digest"]) == (there, row["digest"])
        assert again["disk_bytes"] > 0
        assert image(tmp_path, "push", there, **trusted).stdout == f"{there}\n"
        by_digest = f"{registry.name}/team/mine@{row['digest']}"
        assert json.loads(image(tmp_path, "pull", by_digest, "--json", **trusted).stdout) == {
            "name": by_digest,
            "digest": row["digest"],
            "size": row["size"],
        }
        missing = image(tmp_path, "pull", f"{registry.name}/team/none:v1", **trusted)
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "team/none" in missing.stderr
        untrusted = image(tmp_path, "pull", there)
        assert untrusted.returncode == 1
        assert "Traceback" not in untrusted.stderr
    assert len(listed(tmp_path)) == 2


def test_an_archive_as_an_image_is_answered_with_load(tmp_path: Path, layout: Path) -> None:
    path = write_archive(tmp_path / "a.tar", layout_members(layout))
    ended = image(tmp_path, "inspect", f"oci-archive:{path}")
    assert ended.returncode == 1
    assert f"waggle image load oci-archive:{path}" in ended.stderr
