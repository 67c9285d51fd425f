# SPDX-License-Identifier: Apache-2.0
"""Images for the benchmarks: made of noise and text, and pushed to a registry by skopeo."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

FILE_BYTES = 40_000
"""Of each file; half of them are noise, so that a layer is stored in half of its size."""
Layer = tuple[bytes, str]
"""A gzip layer, and the digest of its tar."""


def make_layer(seed: int, size: int) -> Layer:
    """A layer of about `size` bytes as it is stored."""
    chance = random.Random(seed)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for number in range(size // (FILE_BYTES // 2)):
            noise = chance.randbytes(FILE_BYTES // 2)
            info = tarfile.TarInfo(f"usr/share/{seed}/{number % 50}/{number}")
            info.size = FILE_BYTES
            archive.addfile(info, io.BytesIO(noise + b"text that compresses\n" * 2000))
    data = plain.getvalue()
    return gzip.compress(data, 1, mtime=0), f"sha256:{hashlib.sha256(data).hexdigest()}"


async def push(registry: str, work: Path, name: str, layers: Sequence[Layer]) -> None:
    """Write an OCI layout by hand and let skopeo push it."""
    layout = work / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        "config": {},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(layout, json.dumps(config).encode(), "config.v1+json"),
        "layers": [_put(layout, blob, "layer.v1.tar+gzip") for blob, _ in layers],
    }
    entry = _put(layout, json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index))
    target = f"docker://{registry}/{name}"
    await run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v1", target)
    shutil.rmtree(layout)


def _put(layout: Path, data: bytes, kind: str) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    media = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}


async def run(*argv: str) -> None:
    """Run a program to its end. Raises RuntimeError when it fails."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{argv[0]} failed")
