# SPDX-License-Identifier: Apache-2.0
"""Helpers that build valid and hostile archives of images, and inspect a store afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.images import ARCHITECTURE, Member, compressed, file, tar_bytes

from waggle.infra.oci.store import ImageStore


def ignore(_fraction: float, _text: str) -> None:
    """Ignore progress."""


def blobs(store: ImageStore) -> set[str]:
    directory = store.layout.path / "blobs" / "sha256"
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def leftovers(store: ImageStore) -> list[str]:
    return [path.name for path in store.layout.path.glob(".tmp-*")]


def write_archive(path: Path, members: Sequence[Member], compression: str = "") -> Path:
    path.write_bytes(compressed(tar_bytes(members), compression))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {info: archive.extractfile(info) for info in archive if info.isfile()}
        return {info.name: stream.read() for info, stream in found.items() if stream}


def layout_members(directory: Path) -> list[Member]:
    """Return the files of a layout directory as members of an OCI archive."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != ".lock")
    return [file(str(p.relative_to(directory)), p.read_bytes()) for p in paths]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config_of(tars: Sequence[bytes], config: Mapping[str, object] | None = None) -> bytes:
    return json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(tar)}" for tar in tars]},
        }
    ).encode()


def listing(config: str, layers: Sequence[str], tags: Sequence[str] | None) -> dict[str, object]:
    return {"Config": config, "RepoTags": None if tags is None else [*tags], "Layers": [*layers]}


def manifest(*images: object) -> Member:
    return file("manifest.json", json.dumps(images).encode())


def skopeo(*words: str) -> str:
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *words],
        *(),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


def copied(source: str, target: str) -> None:
    skopeo("copy", "-q", source, target)


def archived(data: bytes) -> dict[str, bytes]:
    """Return the regular files of a tar by name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {i.name: s.read() for i in archive if (s := archive.extractfile(i))}
